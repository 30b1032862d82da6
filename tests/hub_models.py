"""Random weights where ESPnet loads those of a hub, in the packages' real modules."""

import sys

from conftest import TOKENS

#: Sizes that all of BART's kind take, and OPT's.
_BART = dict(
    vocab_size=len(TOKENS),
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=12,
    decoder_ffn_dim=12,
    max_position_embeddings=60,
)
_T5 = dict(
    vocab_size=len(TOKENS),
    d_kv=5,
    d_ff=12,
    num_layers=1,
    num_decoder_layers=2,
    num_heads=2,
    relative_attention_num_buckets=6,
    relative_attention_max_distance=5,
    decoder_start_token_id=0,
)
_LLAMA = dict(
    vocab_size=len(TOKENS) + 3,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=40,
)
_OPT = dict(
    vocab_size=len(TOKENS),
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=12,
    max_position_embeddings=20,
)
#: Language models that are decoders.
CAUSAL = (
    "bigscience/bloom-560m",
    "EleutherAI/pythia-70m",
    "huggyllama/llama-7b",
    "mistralai/Mistral-7B-v0.3",
    "Qwen/Qwen2-0.5B",
)


def use_tiny_models(monkeypatch):
    """Replace the loading functions of the packages that have been imported."""
    if "whisper" in sys.modules:
        import whisper

        monkeypatch.setattr(whisper, "available_models", lambda: ["tiny"])
        monkeypatch.setattr(whisper, "load_model", tiny_whisper)
    if "transformers" in sys.modules:
        import transformers as hub

        heads = (hub.AutoModelForSeq2SeqLM, hub.AutoModelForCausalLM)
        for cls in (hub.AutoModel, *heads, hub.OPTModel):
            with_head = cls in heads

            def load(name, with_head=with_head, **options):
                return tiny_model(name, with_head)

            monkeypatch.setattr(cls, "from_pretrained", load)
        from_pretrained = hub.AutoTokenizer.from_pretrained

        def load_tokenizer(name, **options):
            return Letters() if name in CAUSAL else from_pretrained(name, **options)

        monkeypatch.setattr(hub.AutoTokenizer, "from_pretrained", load_tokenizer)


class Letters:
    """As much of a language model's tokenizer as ESPnet uses."""

    padding_side = "right"

    def encode(self, text, return_tensors):
        import torch

        return torch.tensor([[TOKENS.index(letter) for letter in text]])


def tiny_model(name, with_head=False):
    """A model of transformers by its name on the hub."""
    import torch
    import transformers as hub

    torch.manual_seed(0)
    bart = hub.BartForConditionalGeneration if with_head else hub.BartModel
    mbart = hub.MBartForConditionalGeneration if with_head else hub.MBartModel
    model = {
        "bert-base-cased": lambda: hub.BertModel(
            hub.BertConfig(
                hidden_size=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=12,
            )
        ),
        "facebook/bart-base": lambda: bart(
            hub.BartConfig(
                **_BART,
                d_model=12,
                num_beams=4,
                early_stopping=True,
                no_repeat_ngram_size=3,
            )
        ),
        "facebook/mbart-large-50": lambda: mbart(
            hub.MBartConfig(
                **_BART,
                d_model=8,
                scale_embedding=True,
                num_beams=5,
                max_length=15,
                decoder_start_token_id=2,
            )
        ),
        "google-t5/t5-small": lambda: hub.T5ForConditionalGeneration(
            hub.T5Config(**_T5, d_model=12)
        ),
        "google/mt5-small": lambda: hub.MT5ForConditionalGeneration(
            hub.MT5Config(**_T5, d_model=8, num_beams=3)
        ),
        "bigscience/bloom-560m": lambda: hub.BloomForCausalLM(
            hub.BloomConfig(vocab_size=len(TOKENS), hidden_size=12, n_layer=2, n_head=3)
        ),
        "EleutherAI/pythia-70m": lambda: hub.GPTNeoXForCausalLM(
            hub.GPTNeoXConfig(
                vocab_size=len(TOKENS),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=20,
                rotary_pct=0.5,
            )
        ),
        "huggyllama/llama-7b": lambda: hub.LlamaForCausalLM(
            hub.LlamaConfig(**_LLAMA, num_beams=3)
        ),
        "mistralai/Mistral-7B-v0.3": lambda: hub.MistralForCausalLM(
            hub.MistralConfig(**_LLAMA, head_dim=6, sliding_window=None)
        ),
        "Qwen/Qwen2-0.5B": lambda: hub.Qwen2ForCausalLM(hub.Qwen2Config(**_LLAMA)),
        "facebook/opt-125m": lambda: hub.OPTModel(
            hub.OPTConfig(**_OPT, word_embed_proj_dim=8)
        ),
        "facebook/opt-350m": lambda: hub.OPTModel(
            hub.OPTConfig(**_OPT, word_embed_proj_dim=6, do_layer_norm_before=False)
        ),
    }[name]()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def tiny_whisper(name, n_vocab=None, **options):
    """Model as of ``whisper.load_model``, with 16 encoder and 12 decoder positions."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    model = Whisper(
        ModelDimensions(
            n_mels=80,
            n_audio_ctx=16,
            n_audio_state=8,
            n_audio_head=2,
            n_audio_layer=2,
            n_vocab=n_vocab or len(TOKENS) - 2,
            n_text_ctx=12,
            n_text_state=8,
            n_text_head=2,
            n_text_layer=2,
        )
    )
    torch.nn.init.normal_(model.decoder.positional_embedding)
    return model
