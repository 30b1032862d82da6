"""``postencoder: length_adaptor``: convolutions that halve the length."""

from espnet_onnx_plugin.export.registry import Arch, as_it_is, register

register(
    Arch(
        role="postencoder",
        name="length_adaptor",
        wrap=as_it_is,
        tiny={
            "two_layers": dict(length_adaptor_n_layers=2),
            "projected": dict(
                length_adaptor_n_layers=1, input_layer="linear", output_size=6
            ),
        },
    )
)
