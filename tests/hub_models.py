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
_OPT = dict(
    vocab_size=len(TOKENS),
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=12,
    max_position_embeddings=20,
)


def use_tiny_models(monkeypatch):
    """Replace the loading functions of the packages that have been imported."""
    if "whisper" in sys.modules:
        import whisper

        monkeypatch.setattr(whisper, "available_models", lambda: ["tiny"])
        monkeypatch.setattr(whisper, "load_model", tiny_whisper)
    if "transformers" in sys.modules:
        import transformers as hub

        for cls in (hub.AutoModel, hub.AutoModelForSeq2SeqLM, hub.OPTModel):
            with_head = cls is hub.AutoModelForSeq2SeqLM

            def load(name, with_head=with_head, **options):
                return tiny_model(name, with_head)

            monkeypatch.setattr(cls, "from_pretrained", load)


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
    """What ``whisper.load_model`` returns, with 16 encoder and 12 decoder positions."""
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
