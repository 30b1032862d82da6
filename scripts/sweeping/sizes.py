"""Tiny sizes of ESPnet's models, by parameter and role."""

#: Parameters that are sizes, with the tiny size of each; None: ESPnet's default.
SIZES = {
    "output_size": 8,
    "attention_heads": 2,
    "linear_units": 12,
    "cgmlp_linear_units": 16,
    "num_blocks": 1,  # 2 where something happens between blocks
    "num_blocks_sd": 1,
    "num_layers": 2,
    "hidden_size": 8,
    "joint_space_size": 8,
    "embed_size": 8,
    "linear_size": 12,
    "heads": 2,
    "n_layers": 1,  # of the S4 decoder
    "n_head": 2,
    # The frontends.
    "fs": 8000,
    "n_fft": 64,
    "win_length": None,  # below n_fft where it is
    "hop_length": 32,
    "n_mels": 20,
    # torchaudio's HuBERT.
    "extractor_conv_layer_config": [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2],
    "encoder_embed_dim": 16,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 12,
    "num_classes": 8,
    "final_dim": 8,
    # The RNN decoder's attention.
    "adim": 8,
    "aheads": 2,
    "aconv_chans": 3,
    "awin": 2,
}
LM_SIZES = {
    "unit": 12,
    "att_unit": 12,
    "embed_unit": 6,
    "head": 2,
    "layer": 1,
    "nlayers": 2,
}
_HIFIGAN_SIZES = {
    "channels": 8,
    "upsample_scales": [4, 2],
    "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilations": [[1, 3], [1, 2]],
    "global_channels": 6,
}
TTS_SIZES = {
    "embed_dim": 8,
    "elayers": 1,
    "eunits": 8,
    "econv_layers": 2,
    "econv_chans": 8,
    "adim": 8,
    "aheads": 2,
    "aconv_chans": 3,
    "dlayers": 2,
    "dunits": 8,
    **{f"{prenet}_layers": 2 for prenet in ("prenet", "dprenet", "postnet")},
    **{f"{prenet}_units": 8 for prenet in ("prenet", "dprenet")},
    "postnet_chans": 8,
    "eprenet_conv_layers": 1,
    "eprenet_conv_chans": 8,
    **{f"{what}_predictor_layers": 2 for what in ("duration", "pitch", "energy")},
    **{f"{what}_predictor_chans": 8 for what in ("duration", "pitch", "energy")},
    "gst_tokens": None,
    "gst_heads": None,
    "spks": 3,
    "langs": 2,
    "spk_embed_dim": 5,
    "denoiser_layers": 2,
    "denoiser_channels": 8,
    # Models that make waveforms.
    "sampling_rate": None,
    **{
        f"{prefix}{name}": size
        for prefix in ("", "decoder_", "generator_")
        for name, size in _HIFIGAN_SIZES.items()
    },
    "hidden_channels": 8,
    "text_encoder_attention_heads": 2,
    "text_encoder_ffn_expand": 2,
    "text_encoder_blocks": 1,
    "posterior_encoder_layers": 1,
    "flow_flows": 2,
    "flow_layers": 2,
    "stochastic_duration_predictor_flows": 2,
    "stochastic_duration_predictor_dds_conv_layers": 2,
}

#: Of singers, besides those; what is embedded keeps the range of scores.
SVS_SIZES = {
    **TTS_SIZES,
    "midi_dim": None,
    "duration_dim": None,
    "tempo_dim": None,
    "n_harmonic": 4,
    "decoder_downsample_scales": [2, 4],
    "decoder_downsample_kernel_sizes": [4, 8],
    "projection_filters": [0, 1],
    "projection_kernels": [0, 5],
}

#: Of separators; transforms keep their sizes, which the separators' must fit.
SEPARATOR_SIZES = {
    "layer": 2,
    "layers": 1,
    "unit": 8,
    "adim": 8,
    "aheads": 2,
    "linear_units": 12,
    "bottleneck_dim": 6,
    "hidden_dim": 8,
    "skip_dim": 6,
    "adapt_enroll_dim": 6,
    "emb_D": 4,
    "n_layers": 1,
    "lstm_hidden_units": 6,
    "emb_dim": 8,
    "attn_n_head": 2,
    "attn_approx_qk_dim": 65,
    "num_channels": 8,
    "num_layers": 2,
    "hidden_size": 8,
    "enc_dim": 8,
    "feature_dim": 8,
    "enc_channels": 8,
    "bottleneck_size": 8,
    "num_blocks": 2,
    "num_spatial_blocks": 1,
    "att_heads": 2,
    "ch_att_dim": 8,
    "memory_size": 4,
    **{f"{net}{name}": 6 for net in "bw" for name in ("units", "projs")},
    **{f"{net}layers": 1 for net in "bw"},
    "badim": 6,
}

#: Of separators and masks before a diarization, whose subsampling needs a few bins.
BOTTLENECK_SIZES = {"bottleneck_dim": 16}

#: Sizes by role, where they are not those of :data:`SIZES`.
SIZES_OF = {
    "lm": LM_SIZES,
    "tts": TTS_SIZES,
    "svs": SVS_SIZES,
    "separator": SEPARATOR_SIZES,
    "enh_separator": SEPARATOR_SIZES,
    "extractor": SEPARATOR_SIZES,
    "diffusion_model": {"N": 2},  # steps of the sampler
    "enh_encoder": {"channel": 8},
    "enh_mask_module": BOTTLENECK_SIZES,
    "attractor": {"unit": 8},
    "diar_attractor": {"unit": 8},
    "enh_decoder": {"channel": 8},
}
