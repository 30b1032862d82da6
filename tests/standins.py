"""Stand-ins of the commands of a decode, for made-up recipes.

They record made-up results as the real ones do, and resume and merge them really.
"""

import json
import os
import wave
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.runtime.diarization.writer import DiarizationWriter
from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter
from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.recipe_decode import RecipeDecode
from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter
from espnet_onnx_plugin.runtime.io.writer import ResultWriter, job_writer


class Inputs:
    """Digests of utterances that are all alike."""

    def of(self, key):
        return "made up"


def kind_of(name):
    if name in ("tts_inference", "svs_inference"):
        return SpeechWriter
    if name == "diar_inference":
        return DiarizationWriter
    return WaveWriter if name.startswith("enh_") else ResultWriter


def facts_of(name, values):
    manifest = Path(values["model_dir"][0], "manifest.yaml")
    options = {option: values.get(option) for option in ("beam_size", "inf_num")}
    return {"command": name, "bundle": sha256(manifest), **options}


def keys_of(values):
    return [line.split()[0] for line in open(values["key_file"][0])]


def write_wave(path, samples):
    with wave.open(str(path), "wb") as f:
        f.setparams((1, 2, 8000, 0, "NONE", ""))
        f.writeframes(samples)


def write_job(name, values, out):
    """Write the results of a job; the environment's LOSE is lost of the first."""
    lose = os.environ.get("LOSE")
    kind = kind_of(name)
    job = Job(
        out,
        keys_of(values),
        facts_of(name, values),
        Inputs(),
        int(values.get("max_failures", [0])[0]),
    )
    with job_writer(kind, job) as writer:
        for number, key in enumerate(job.keys):
            if os.environ.get("BAD") == key:
                if kind is ResultWriter:
                    writer.results({f"1best_recog/{f}": "" for f in FILES})
                writer.failure(key, ValueError(f"the audio of {key} is bad"))
                continue
            if kind is SpeechWriter:
                speak(writer, key, out, bool(lose and number == 0))
            elif issubclass(kind, WaveWriter):
                if kind is DiarizationWriter and not (lose and number == 0):
                    writer.activities(key, np.eye(4, 2))
                enhance(writer, key, bool(lose and number == 0))
            else:
                recognize(writer, name, values, lose if number == 0 else None)
            writer.record(key, dict(audio_seconds=2, total_seconds=1, peak_memory_mb=9))


FILES = ("text", "token_int", "score", "token")


def speak(writer, key, out, lose):
    path = writer._file(f"norm/{key}.npy", "norm/feats.scp")
    path.write_text("features")
    writer._line("speech_shape/speech_shape", f"of {out.name}")
    writer._line("durations/durations", f"of {out.name}")
    if not lose:
        path = writer._file(f"wav/{key}.wav", "wav/wav.scp")
        write_wave(path, bytes(2 * int(key[1:])))
    writer._file(f"att_ws/{key}.png").write_text(key)


def enhance(writer, key, lose):
    for n in ("1", "2"):
        if not lose:
            path = writer._file(f"wavs/{n}/{key}.wav", f"spk{n}.scp")
            write_wave(path, bytes(range(100)))


def recognize(writer, name, values, lose):
    several = values.keys() & {"multi_asr", "enh_s2t_task"}
    speakers = ["_spk1", "_spk2"] if several else [""]
    files = {}
    for file in [f + s for f in FILES for s in speakers]:
        if file != lose:
            files[f"1best_recog/{file}"] = "1 2"
        if name == "s2t_inference":
            files["1best_recog/text_nospecial"] = "1"
        if name == "st_inference":
            files[f"1asr_best_recog/asr_{file}"] = "3"
    if name.endswith("_streaming"):
        row = dict.fromkeys(("first_partial", "last_word", "work", "said", "erased"), 1)
        row |= dict(first_computation=0.5, last_computation=0.25)
        row |= dict(frontend=values.get("frontend", ["espnet"])[-1])
        row |= dict(chunk_seconds=int(values.get("sim_chunk_length", [0])[-1]) / 16000)
        files["1best_recog/stream"] = json.dumps(row)
    writer.results(files)


def recipe_decode(name, values, args):
    """Stand for bin.resume and bin.merge."""
    inference = next(arg for arg in args if "_inference" in arg and "/" not in arg)
    decode = RecipeDecode(
        Path(values["decode_dir"][0]),
        Path(values["output_dir"][0]),
        kind_of(inference),
        keys_of(values),
        facts_of(inference, values),
        Inputs(),
    )
    if name == "merge":
        try:
            files = values.get("files", [""])[0].split()
            decode.merge(int(values["max_failures"][0]), files)
        except Exception as e:
            raise SystemExit(f"merge: error: {e}")
        print("merged")
        return
    if values["force"][0] == "true":
        decode.forget()
    left = decode.left()
    Path(values["todo"][0]).write_text("".join(f"{key}\n" for key in left))
    print(f"kept {len(decode.keys) - len(left)}; {len(left)} to decode")
