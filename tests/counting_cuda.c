/* NVIDIA's libraries as far as onnxruntime calls them, for a machine without a GPU.
 *
 * Memory is the host's, copies are made, kernels compute nothing, and all is counted.
 * counting_cuda.py compiles this file once for each library, with PART_<library> defined;
 * a function of one that is not here does nothing and says that it did it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What is counted, in the order of counting_cuda.COUNTED. */
struct counts {
    long launches;  /* kernels, products and convolutions */
    long plans;     /* of convolutions, which cuDNN makes for a shape */
    long to_gpu;    /* copies */
    long to_host;
    long bytes_to_host;
    long waits;     /* for the GPU to be done */
    long recorded;  /* runs, as CUDA graphs */
    long repeated;
    long unfit;     /* calls while one is recorded that CUDA refuses, or that would be
                       repeated with what the host's memory holds by then */
};

#ifdef PART_cudart

struct counts counts;

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2 };

static int recording; /* as CUDA calls it: 0 none, 1 active */
static int unless_recording(void) { counts.unfit += recording; return 0; }

static int allocate(void **memory, size_t size)
{
    unless_recording();
    *memory = aligned_alloc(512, (size / 512 + 1) * 512);
    if (*memory == NULL)
        return 2;
    memset(*memory, 0, size);
    return 0;
}

int cudaMalloc(void **memory, size_t size) { return allocate(memory, size); }
int cudaMallocHost(void **memory, size_t size) { return allocate(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags)
{
    return allocate(memory, size);
}
int cudaFree(void *memory) { free(memory); return unless_recording(); }
int cudaFreeHost(void *memory) { free(memory); return unless_recording(); }
int cudaFreeAsync(void *memory, void *stream) { free(memory); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream)
{
    memset(to, value, size);
    return 0;
}
int cudaMemset(void *to, int value, size_t size)
{
    unless_recording();
    return cudaMemsetAsync(to, value, size, NULL);
}

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream)
{
    counts.to_gpu += kind == HOST_TO_DEVICE;
    if (kind == HOST_TO_DEVICE || kind == DEVICE_TO_HOST)
        unless_recording();
    if (kind == DEVICE_TO_HOST) {
        counts.to_host++;
        counts.bytes_to_host += size;
    }
    memmove(to, from, size);
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind)
{
    unless_recording();
    return cudaMemcpyAsync(to, from, size, kind, NULL);
}
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                      size_t width, size_t height, int kind, void *stream)
{
    for (size_t i = 0; i < height; i++)
        memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    return 0;
}

static int wait(void) { counts.waits++; return unless_recording(); }
int cudaDeviceSynchronize(void) { return wait(); }
int cudaStreamSynchronize(void *stream) { return wait(); }
int cudaEventSynchronize(void *event) { return wait(); }

static int make(void **handle) { *handle = malloc(64); return 0; }
int cudaStreamCreate(void **stream) { return make(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return make(stream); }
int cudaStreamDestroy(void *stream) { free(stream); return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { recording = 1; return 0; }
int cudaStreamEndCapture(void *stream, void **graph)
{
    recording = 0;
    counts.recorded++;
    return make(graph);
}
int cudaStreamIsCapturing(void *stream, int *status) { *status = recording; return 0; }
int cudaGraphInstantiate(void **ready, void *graph) { return make(ready); }
int cudaEventCreate(void **event) { return make(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return make(event); }
int cudaEventDestroy(void *event) { free(event); return 0; }
int cudaLaunchHostFunc(void *stream, void (*call)(void *), void *data)
{
    call(data);
    return unless_recording();
}

static int launch(void) { counts.launches++; return 0; }
int cudaLaunchKernel(void) { return launch(); }
int __cudaLaunchKernel(void) { return launch(); }
int cudaLaunchKernelExC(void) { return launch(); }
int cudaLaunchCooperativeKernel(void) { return launch(); }
int cudaGraphLaunch(void *ready, void *stream) { counts.repeated++; return launch(); }
int __cudaGetKernel(void **kernel, const void *function)
{
    *kernel = (void *)function;
    return 0;
}
int __cudaPopCallConfiguration(uint32_t *grid, uint32_t *block, size_t *shared,
                               void **stream)
{
    for (int i = 0; i < 3; i++)
        grid[i] = block[i] = 1;
    *shared = 0;
    *stream = NULL;
    return 0;
}
void **__cudaRegisterFatBinary(void *binary) { return malloc(64); }

/* A data-centre GPU of compute capability 9.0. */
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total)
{
    *free = *total = (size_t)64 << 30;
    return 0;
}

/* The beginning of CUDA 13's structure of this name. */
struct cudaDeviceProp {
    char name[256];
    char uuid[16];
    char luid[8];
    unsigned luidDeviceNodeMask;
    size_t totalGlobalMem, sharedMemPerBlock;
    int regsPerBlock, warpSize;
    size_t memPitch;
    int maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    size_t totalConstMem;
    int major, minor;
    size_t textureAlignment, texturePitchAlignment;
    int multiProcessorCount;
};
int cudaGetDeviceProperties(struct cudaDeviceProp *about, int device)
{
    memset(about, 0, sizeof *about);
    strcpy(about->name, "counting");
    about->totalGlobalMem = (size_t)64 << 30;
    about->sharedMemPerBlock = 49152;
    about->regsPerBlock = 65536;
    about->warpSize = 32;
    about->maxThreadsPerBlock = about->maxThreadsDim[0] = about->maxThreadsDim[1] = 1024;
    about->maxThreadsDim[2] = 64;
    about->maxGridSize[0] = 2147483647;
    about->maxGridSize[1] = about->maxGridSize[2] = 65535;
    about->totalConstMem = 65536;
    about->major = 9;
    about->multiProcessorCount = 132;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case 1: case 2: *value = 1024; break;   /* threads of a block */
    case 5: *value = 2147483647; break;     /* blocks */
    case 6: *value = 65535; break;
    case 8: *value = 49152; break;          /* shared memory of a block */
    case 10: *value = 32; break;            /* threads of a warp */
    case 12: *value = 65536; break;         /* registers */
    case 16: *value = 132; break;           /* multiprocessors */
    case 39: *value = 2048; break;          /* threads of one */
    case 75: *value = 9; break;             /* compute capability */
    case 76: *value = 0; break;
    case 81: *value = 233472; break;        /* shared memory of a multiprocessor */
    case 97: *value = 232448; break;        /* the most that a block may have */
    case 106: *value = 32; break;           /* blocks of a multiprocessor */
    default: *value = 1;
    }
    return 0;
}

/* The beginning of CUDA's structure of this name. */
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion;
};
int cudaFuncGetAttributes(struct cudaFuncAttributes *about, const void *function)
{
    *about = (struct cudaFuncAttributes){0, 0, 0, 1024, 32, 90, 90};
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks)
{
    *blocks = 2;
    return 0;
}
struct cudaPointerAttributes { int type, device; void *on_device, *on_host; };
int cudaPointerGetAttributes(struct cudaPointerAttributes *about, const void *memory)
{
    *about = (struct cudaPointerAttributes){2, 0, (void *)memory, NULL};
    return 0;
}
const char *cudaGetErrorName(int error) { return "error"; }
const char *cudaGetErrorString(int error) { return "of the CUDA that counts"; }
static int nothing(void) { return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **entry)
{
    *entry = (void *)nothing;
    return 0;
}

#else
extern struct counts counts;
static int make(void **handle) { *handle = calloc(1, 64); return 0; }
static int launch(void) { counts.launches++; return 0; }
#endif

#ifdef PART_cublas
int cublasCreate_v2(void **handle) { return make(handle); }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
const char *cublasGetStatusName(int status) { return "error"; }
const char *cublasGetStatusString(int status) { return "of the CUDA that counts"; }
#define PRODUCT(name) int name(void) { return launch(); }
PRODUCT(cublasSgemm_v2) PRODUCT(cublasDgemm_v2) PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmBatched) PRODUCT(cublasDgemmBatched) PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasSgemmStridedBatched) PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasGemmStridedBatchedEx) PRODUCT(cublasSgeam) PRODUCT(cublasDgeam)
#endif

#ifdef PART_cublasLt
int cublasLtCreate(void **handle) { return make(handle); }
int cublasLtMatmulDescCreate(void **made) { return make(made); }
int cublasLtMatmulPreferenceCreate(void **made) { return make(made); }
int cublasLtMatrixLayoutCreate(void **made) { return make(made); }
int cublasLtMatrixTransformDescCreate(void **made) { return make(made); }
int cublasLtMatmul(void) { return launch(); }
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *what, void *a, void *b, void *c,
                                   void *d, void *preference, int wanted, void *result,
                                   int *found)
{
    memset(result, 0, 96); /* an algorithm, its workspace and its state */
    *found = 1;
    return 0;
}
#endif

#ifdef PART_cuda
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
#endif

#ifdef PART_cudnn
size_t cudnnGetVersion(void) { return 91900; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int error) { return "of the CUDA that counts"; }
void cudnnGetLastErrorString(char *text, size_t size) { *text = '\0'; }
#define DESCRIPTOR(of) int cudnnCreate##of(void **made) { return make(made); }
DESCRIPTOR() DESCRIPTOR(ActivationDescriptor) DESCRIPTOR(ConvolutionDescriptor)
DESCRIPTOR(DropoutDescriptor) DESCRIPTOR(FilterDescriptor) DESCRIPTOR(LRNDescriptor)
DESCRIPTOR(PoolingDescriptor) DESCRIPTOR(RNNDataDescriptor) DESCRIPTOR(RNNDescriptor)
DESCRIPTOR(ReduceTensorDescriptor) DESCRIPTOR(TensorDescriptor)
int cudnnGetStream(void *handle, void **stream) { *stream = NULL; return 0; }
#define SIZE(name, ...) int name(__VA_ARGS__, size_t *size) { *size = 256; return 0; }
SIZE(cudnnGetReductionWorkspaceSize, void *h, void *r, void *a, void *c)
SIZE(cudnnGetReductionIndicesSize, void *h, void *r, void *a, void *c)
SIZE(cudnnDropoutGetStatesSize, void *h)
SIZE(cudnnGetConvolutionForwardWorkspaceSize, void *h, void *x, void *w, void *c, void *y,
     int algorithm)
int cudnnGetRNNTempSpaceSizes(void *h, void *rnn, int mode, void *x, size_t *workspace,
                              size_t *reserve)
{
    *workspace = 256;
    if (reserve != NULL)
        *reserve = 0;
    return 0;
}
int cudnnGetRNNWeightParams(void *h, void *rnn, int layer, size_t size, void *weights,
                            int id, void *matrix_of, void **matrix, void *bias_of,
                            void **bias)
{
    *matrix = *bias = weights;
    return 0;
}
int cudnnGetTensorNdDescriptor(void *tensor, int most, int *type, int *axes, int *sizes,
                               int *strides)
{
    *type = 0;
    *axes = most;
    for (int i = 0; i < most; i++)
        sizes[i] = strides[i] = 1;
    return 0;
}
int cudnnReduceTensor(void) { return launch(); }
int cudnnSoftmaxForward(void) { return launch(); }
int cudnnConvolutionForward(void) { return launch(); }
int cudnnRNNForward(void) { return launch(); }

/* Convolutions: there is one way to compute each, which needs nothing. */
enum { EXECUTION_PLAN = 5 };
enum { INT64 = 3, INT32 = 23, DESCRIPTOR = 15, KNOB_CHOICES = 302 };
int cudnnBackendCreateDescriptor(int kind, void **made)
{
    make(made);
    *(int *)*made = kind;
    return 0;
}
int cudnnBackendDestroyDescriptor(void *descriptor) { free(descriptor); return 0; }
int cudnnBackendFinalize(void *descriptor)
{
    counts.plans += *(int *)descriptor == EXECUTION_PLAN;
    return 0;
}
int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted,
                             int64_t *given, void *value)
{
    int64_t count = 0;
    if (type == DESCRIPTOR && name != KNOB_CHOICES)
        count = 1;
    if ((type == INT64 || type == INT32) && wanted > 0) {
        count = 1;
        if (value != NULL)
            memset(value, 0, type == INT64 ? 8 : 4);
    }
    if (given != NULL)
        *given = count;
    return 0;
}
int cudnnBackendExecute(void) { return launch(); }
#endif
