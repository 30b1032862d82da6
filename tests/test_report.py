"""Reading decode directories and writing tables."""

import csv
import json

import pytest

from espnet_onnx_plugin.bin import report
from espnet_onnx_plugin.bundle import File, Manifest, Text, write_manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.report import plots
from espnet_onnx_plugin.report.bleu import read_bleu
from espnet_onnx_plugin.report.counts import STAND_IN, read_result
from espnet_onnx_plugin.report.decodes import compare
from espnet_onnx_plugin.report.figures import to_csv
from espnet_onnx_plugin.report.notes import notes
from espnet_onnx_plugin.report.results import Result, System
from espnet_onnx_plugin.report.tables import (
    latex_escape,
    markdown_escape,
    to_latex,
    to_markdown,
)
from espnet_onnx_plugin.report.timing import TIMING, Timing
from espnet_onnx_plugin.runtime.core.arithmetic import WIDE
from espnet_onnx_plugin.runtime.recognition.heard import STREAM_FILE

# What "sclite -o all" prints above its alignments, percentages first.
RESULT = """
                     SYSTEM SUMMARY PERCENTAGES by SPEAKER

       | SPKR   | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |
       |--------+-------------+-----------------------------------------|
       | Sum/Avg|    {snt} {wrd} | 80.0   10.0   10.0   20.0   40.0  100.0 |
       |================================================================|

       | SPKR | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |
       | spk1 |    {snt} {wrd} | {cor} {sub} {dele} {ins} {err} {serr} |
       | Sum  |    {snt} {wrd} | {cor} {sub} {dele} {ins} {err} {serr} |
       | Mean |  2.0    5.0 |  4.0    0.5    0.5    1.0    2.0    2.0 |
"""


def make_result(words=1000, sub=3, dele=2, ins=1, sentences=4, **changes):
    figures = {
        "snt": sentences,
        "wrd": words,
        "cor": words - sub - dele,
        "sub": sub,
        "dele": dele,
        "ins": ins,
        "err": sub + dele + ins,
        "serr": 2,
    }
    return RESULT.format(**{**figures, **changes})


def make_decode(directory, tokens, results=None, timings=None):
    directory.mkdir(parents=True)
    lines = [f"{key} {ids}".rstrip() for key, ids in tokens.items()]
    (directory / "token_int").write_text("\n".join(lines) + "\n")
    scores = [f"{key} tensor(-1.5000)\n" for key in tokens]
    (directory / "score").write_text("".join(scores))
    for score_dir, text in (results or {}).items():
        (directory / score_dir).mkdir()
        (directory / score_dir / "result.txt").write_text(text)
    if timings:
        path = directory / TIMING
        path.parent.mkdir(parents=True)
        with open(path, "w") as f:
            for key, (audio, total, memory) in timings.items():
                row = {
                    "key": key,
                    "audio_seconds": audio,
                    "total_seconds": total,
                    "peak_memory_mb": memory,
                }
                print(json.dumps(row), file=f)


@pytest.fixture
def decodes(tmp_path):
    """PyTorch and a variant that differs in one token, both timed on a sample."""
    tokens = {"a": "1 2 3", "b": "", "c": "4"}
    make_decode(
        tmp_path / "torch/test_clean",
        tokens,
        {"score_wer": make_result(), "score_ter": make_result(words=2000)},
        {"a": (10.0, 5.0, 800.0), "b": (1.0, 0.5, 900.0)},
    )
    make_decode(
        tmp_path / "fp32/test_clean",
        {**tokens, "c": "5"},
        {"score_wer": make_result(sub=4), "score_cer": make_result()},
        {"a": (10.0, 2.0, 100.0), "b": (1.0, 0.2, 120.0)},
    )
    model = tmp_path / "bundle/sub"
    model.mkdir(parents=True)
    (model / "a.onnx").write_bytes(b"x" * 100)
    (model.parent / "b").write_bytes(b"x" * 11)
    return tmp_path


def run_compare(root):
    return compare(
        ["test_clean"],
        [System("fp32", root / "fp32", (root / "bundle", root / "bundle/b"))],
        System("PyTorch", root / "torch"),
    )


def test_figures(decodes):
    torch, fp32 = run_compare(decodes)
    assert (torch.system, torch.utterances, torch.identical) == ("PyTorch", 3, None)
    assert torch.errors["WER"] == ErrorCounts(4, 1000, 995, 3, 2, 1, 2)
    assert torch.errors["WER"].rate == pytest.approx(0.6)
    assert torch.scorers == {"sclite"}
    assert torch.differences == {} and torch.speed_up is None
    assert torch.timing.rtf == pytest.approx(0.5)
    assert torch.timing.peak_memory_mb == 900
    assert torch.model_bytes is None

    assert (fp32.identical, fp32.ties) == (2, 1)
    assert fp32.errors["WER"].rate == pytest.approx(0.7)
    # A rate that only one side has is shown, without a difference.
    assert fp32.errors.keys() == {"WER", "CER"}
    assert fp32.differences == pytest.approx({"WER": 0.1})
    assert fp32.timing.rtf == pytest.approx(0.2)
    assert fp32.timing.peak_memory_mb == 120
    assert fp32.speed_up == pytest.approx(2.5)
    assert fp32.model_bytes == 122


@pytest.mark.parametrize(
    "score, ties",
    [("-1.5009", 1), ("-1.4", 0), ("tensor(-15.)", 0), ("tensor(inf)", 0)],
)
def test_ties(decodes, score, ties):
    (decodes / "fp32/test_clean/score").write_text(f"a -9\nb -9\nc {score}\n")
    assert run_compare(decodes)[1].ties == ties


def test_an_utterance_is_all_of_its_speakers(tmp_path):
    rows = {
        "torch": {"_spk1": "a 1\nb 2\nc 3\nd 4\n", "_spk2": "a 5\nb 6\nc 7\nd 8\n"},
        "fp32": {"_spk1": "a 1\nb 0\nc 0\nd 4\n", "_spk2": "a 5\nb 6\nc 7\nd 0\n"},
    }
    # Where tokens are equal, scores do not matter.
    scores = {
        "torch": {"_spk1": "b -1\nc -1\nd 1\n", "_spk2": "b -1\nc 1\nd 1\n"},
        "fp32": {"_spk1": "b -1\nc -2\nd 2\n", "_spk2": "b -2\nc 1\nd 1\n"},
    }
    for system in rows:
        directory = tmp_path / system / "test_clean"
        directory.mkdir(parents=True)
        for speaker in ("_spk1", "_spk2"):
            (directory / f"token_int{speaker}").write_text(rows[system][speaker])
            (directory / f"score{speaker}").write_text(scores[system][speaker])
    systems = [System(name, tmp_path / name) for name in ("torch", "fp32")]
    results = compare(["test_clean"], systems[1:], systems[0])
    assert (results[1].utterances, results[1].speakers) == (4, 2)
    assert (results[1].identical, results[1].ties) == (1, 2)
    assert "Several speakers" in to_markdown("T", {}, results)
    (tmp_path / "fp32/test_clean/token_int_spk2").write_text("a 5\n")
    with pytest.raises(PluginError, match=r"lacks 3 \(b_spk2, c_spk2, d_spk2\)"):
        compare(["test_clean"], systems[1:], systems[0])
    (tmp_path / "fp32/test_clean/token_int_spk2").unlink()
    with pytest.raises(PluginError, match=r"lacks 4 \(a_spk2, "):
        compare(["test_clean"], systems[1:], systems[0])


def test_no_speed_up_from_other_utterances(decodes):
    path = decodes / "torch/test_clean" / TIMING
    path.write_text(path.read_text().splitlines()[0] + "\n")
    torch, fp32 = run_compare(decodes)
    assert torch.timing.utterances == 1 and fp32.timing.utterances == 2
    assert fp32.speed_up is None
    path.unlink()
    assert run_compare(decodes)[0].timing is None


def test_without_reference(decodes):
    (row,) = compare(["test_clean"], [System("fp32", decodes / "fp32")], None)
    assert row.identical is None and row.speed_up is None and not row.differences


@pytest.mark.parametrize(
    "tokens, what",
    [
        ({"a": "1", "b": ""}, "lacks 1 (c)"),
        ({"a": "1", "b": "", "c": "2", "d": "3"}, "adds 1 (d)"),
        ({"w": "", "x": "", "y": "", "z": ""}, "adds 4 (w, x, y, ...)"),
    ],
)
def test_other_utterances_are_an_error(decodes, tokens, what):
    make_decode(decodes / "int8/test_clean", tokens)
    with pytest.raises(PluginError) as error:
        compare(
            ["test_clean"],
            [System("int8", decodes / "int8")],
            System("PyTorch", decodes / "torch"),
        )
    assert what in str(error.value)
    assert str(decodes / "int8/test_clean") in str(error.value)


def test_missing_decode_names_the_file(decodes):
    with pytest.raises(PluginError, match="int8/test_clean/token_int is missing"):
        compare(["test_clean"], [System("int8", decodes / "int8")], None)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "token_int is empty: decode this test set again"),
        ("a 1 2 3\nb\nb\nc 4\n", "token_int:3 names utterance 'b' twice"),
    ],
)
def test_a_decode_without_utterances_or_with_one_twice_is_an_error(
    decodes, content, message
):
    for system in ("torch", "fp32"):
        (decodes / system / "test_clean/token_int").write_text(content)
    with pytest.raises(PluginError, match=message):
        run_compare(decodes)


@pytest.mark.parametrize(
    "line", ["{", '{"key": "a"}', '{"key": "a", "audio_seconds": 1}', "[]"]
)
def test_damaged_timing_names_file_and_line(decodes, line):
    path = decodes / "fp32/test_clean" / TIMING
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PluginError, match=r"timing\.jsonl:3: not a timing"):
        run_compare(decodes)


def test_a_key_timed_twice_is_an_error(decodes):
    path = decodes / "fp32/test_clean" / TIMING
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(PluginError, match="a second timing for 'a'"):
        run_compare(decodes)


def test_result_without_raw_counts(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text(make_result().split("\n\n")[0])
    with pytest.raises(PluginError, match="no raw counts"):
        read_result(path)
    path.write_text(make_result(err=99))
    with pytest.raises(PluginError, match="do not add up"):
        read_result(path)


def test_escaping():
    assert latex_escape(r"test_clean 5% \a{b}") == (
        r"test\_clean 5\% \textbackslash{}a\{b\}"
    )
    assert markdown_escape("test_clean|*x*") == r"test\_clean\|\*x\*"


def test_tables(decodes):
    results = run_compare(decodes)
    facts = {"model": "exp/asr_train"}
    markdown = to_markdown("Title", facts, results)
    assert "## test\\_clean" in markdown and "exp/asr\\_train" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    # Of CER and TER nothing can be compared.
    assert rows[2].startswith("| fp32 | 0.70 | +0.10 | 0.60 | — | 3 | 66.67 | 1 |")
    assert "2.50x" in rows[2]
    assert "the same sample" in markdown and "test\\_clean 2)" in markdown

    latex = to_latex("Title", facts, results)
    assert r"\toprule" in latex and r"\bottomrule" in latex
    assert r"test\_clean" in latex and "test_clean" not in latex
    body = [line for line in latex.splitlines() if " & " in line]
    assert len({line.count("&") for line in body}) == 1
    assert "—" not in latex

    torch, fp32 = csv.DictReader(to_csv(results).splitlines())
    assert fp32["wer"] == "0.7000" and fp32["wer_substitutions"] == "4"
    assert torch["identical"] == "" and fp32["identical"] == "2"
    assert fp32["model_bytes"] == "122"


def test_scorers_are_named(decodes):
    text = f"{STAND_IN}\n" + make_result()
    (decodes / "fp32/test_clean/score_wer/result.txt").write_text(text)
    markdown = to_markdown("Title", {}, run_compare(decodes))
    assert "raw counts of: jiwer, sclite." in markdown


def test_write_leaves_the_old_file_where_it_fails(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["RESULTS.md"]


def test_command_line(decodes, capsys):
    out = decodes / "onnx"
    report.main(
        ["--reference", "PyTorch", str(decodes / "torch")]
        + ["--system", "fp32", str(decodes / "fp32"), str(decodes / "bundle")]
        + ["--test_sets", "test_clean", "--fact", "jobs", "2 in parallel"]
        + ["--output_dir", str(out)]
    )
    tables = ["RESULTS.csv", "RESULTS.md", "RESULTS.tex"]
    drawn = [f"{name}_by_rtf.png" for name in ("cer", "ter", "wer")]
    assert sorted(path.name for path in out.iterdir()) == tables + drawn
    for name in drawn:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "jobs: 2 in parallel" in (out / "RESULTS.md").read_text()
    assert "RESULTS.md" in capsys.readouterr().out


def write_streams(directory, figures, frontend="espnet", chunk=0.32):
    """Figures of streams: audio and computation of the two delays, words by count."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ("first_partial", "first_computation", "last_word", "last_computation")
    with open(directory / STREAM_FILE, "w") as f:
        for key, (*delays, erased, said) in figures.items():
            row = dict(zip(names, delays), erased=erased, said=said, work=0.1)
            row = dict(row, frontend=frontend, chunk_seconds=chunk)
            print(key, json.dumps(row), file=f)


@pytest.fixture
def streams(decodes):
    """The variant's decode as one of streams, and others that cut them otherwise."""
    tokens = {"a": "1 2 3", "b": "", "c": "4"}
    everything = dict(
        a=(9, 9, 9, 9, 1, 3), b=(None,) * 4 + (0, 0), c=(9, 9, 9, 9, 1, 1)
    )
    sample = dict(a=(0.5, 0.2, 0.8, 0.1, 1, 3), b=(None,) * 4 + (0, 0))
    cuts = [("fp32", "espnet", 0.32), ("exact", "exact", 0.0), ("c", "exact", 0.04)]
    for name, frontend, chunk in cuts:
        directory = decodes / name / "test_clean"
        if name != "fp32":
            results = {"score_wer": make_result(sub=5)}
            make_decode(directory, tokens, results, {"a": (10.0, 2.0, 100.0)})
        write_streams(directory, everything, frontend, chunk)
        timed = (directory / TIMING).parent / "1best_recog"
        write_streams(timed, sample, frontend, chunk)
    return decodes


def test_latency_and_flicker_of_streams(streams):
    systems = [System("fp32", streams / name) for name in ("fp32", "exact", "c")]
    torch = System("PyTorch", streams / "torch")
    results = compare(["test_clean"], systems, torch)
    markdown = to_markdown("T", {}, results)
    rows = [line.split(" | ") for line in markdown.splitlines() if " | " in line]
    header, *rows = [row for row in rows if len(row) > 3]
    assert header[:4] == ["| system", "front end", "chunk s", "WER %"]
    place = header.index("first partial s")
    assert header[place - 1 : place + 3] == [
        *("RTF", "first partial s", "last word s", "flicker"),
    ]
    assert [row[:4] for row in rows] == [
        ["| PyTorch", "—", "—", "0.60"],
        ["| fp32", "espnet", "0.32", "0.70"],
        ["| fp32", "exact", "whole", "0.80"],
        ["| fp32", "exact", "0.04", "0.80"],
    ]
    # Delays are those of the sample, for which each system had the machine to itself.
    assert rows[0][place : place + 3] == ["—", "—", "—"]
    assert rows[1][place : place + 3] == ["0.700", "0.900", "0.500"]
    [note] = [line for line in markdown.splitlines() if line.startswith("- Streams:")]
    torch, fp32, exact, _ = csv.DictReader(to_csv(results).splitlines())
    assert torch["chunk_seconds"] == torch["words_taken_back"] == ""
    assert (exact["front_end"], exact["chunk_seconds"]) == ("exact", "0.0000")
    assert fp32["first_partial_seconds"] == "0.7000"
    assert fp32["last_word_seconds"] == "0.9000"
    assert (fp32["words_taken_back"], fp32["words_found"]) == ("2", "4")


def test_other_recipes_have_no_columns_of_streams(decodes):
    results = run_compare(decodes)
    markdown = to_markdown("T", {}, results)
    assert "front end" not in markdown and "Streams" not in markdown
    assert to_csv(results).splitlines()[0].endswith(",model_bytes,peak_memory_mb")


def test_streams_that_were_not_timed_have_no_delays(streams):
    for path in (streams / "fp32/test_clean").glob("onnx_timing/output/*/*"):
        path.unlink()
    [fp32] = compare(["test_clean"], [System("fp32", streams / "fp32")], None)
    assert (fp32.streams.first_partial, fp32.streams.flicker) == (None, 0.5)


@pytest.mark.parametrize("line", ["a", "a {}", "a [1]", 'a {"said": 1}'])
def test_damaged_figures_of_streams_name_file_and_utterance(streams, line):
    (streams / "fp32/test_clean/stream").write_text(line + "\n")
    with pytest.raises(PluginError, match="test_clean/stream: 'a' has no figures"):
        run_compare(streams)


def test_errors_of_streams_are_plotted_by_latency(streams, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "plot_latency", lambda *args: drawn.append(args))
    names = ("fp32", "exact", "c")
    systems = [System("fp32", streams / name) for name in names]
    torch = System("PyTorch", streams / "torch")
    results = compare(["test_clean"], systems, torch)
    found = plots.plot_results(streams, results)
    assert found[-2:] == ["wer_by_latency.png", "cer_by_latency.png"]
    [(path, lines, label), _] = drawn
    assert (path.name, label) == ("wer_by_latency.png", "WER %")
    # A line for each way to cut, over the sizes of its parts.
    [espnet, exact] = lines.items()
    assert espnet[0] == ("test_clean", "fp32, espnet")
    assert [point.chunk for point in espnet[1]] == ["0.32"]
    assert exact[0] == ("test_clean", "fp32, exact")
    assert [point.chunk for point in exact[1]] == ["whole", "0.04"]
    assert exact[1][0].last_word == pytest.approx(0.9)
    assert exact[1][0].quality == pytest.approx(0.8)
    monkeypatch.undo()
    plots.plot_results(streams, results)
    assert (streams / "wer_by_latency.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_tables_alone(decodes, capsys, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    report.main(
        ["--system", "fp32", str(decodes / "fp32"), "--test_sets", "test_clean"]
        + ["--output_dir", str(decodes / "onnx")]
    )
    assert "no plots, they need matplotlib" in capsys.readouterr().out
    assert not list((decodes / "onnx").glob("*.png"))


def test_command_line_error_is_one_line(decodes, capsys):
    with pytest.raises(SystemExit) as error:
        report.main(
            ["--system", "int8", str(decodes / "int8"), "--test_sets", "test_clean"]
            + ["--output_dir", str(decodes / "onnx")]
        )
    assert error.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "token_int is missing" in message
    assert not (decodes / "onnx").exists()


FIGURES = {
    "precision": "int8",
    "utterances": 50,
    "token_agreement": 0.99876,
    "wer_fp32": 5.0,
    "wer": 5.06,
    "budget": {"max_wer_increase": 0.1, "min_token_agreement": 0.99},
    "kept": {},
    "speed_ratio": 1.5,
    "slower": False,
}


def quantized_markdown(root, **changes):
    checks = {"parity": {}, "quantize": {**FIGURES, **changes}}
    text = Text("char", File("tokens.txt", 0, ""))
    (root / "bundle").mkdir(exist_ok=True)
    write_manifest(
        root / "bundle", Manifest("asr", {}, None, text, None, checks=checks)
    )
    systems = [
        System("fp32", root / "fp32"),
        System("int8", root / "fp32", (root / "bundle",)),
    ]
    lines = to_markdown("Title", {}, compare(["test_clean"], systems, None))
    [note] = [line for line in lines.splitlines() if "budget" in line]
    return note


def test_what_a_quantized_variant_kept_of_its_budget(decodes):
    assert quantized_markdown(decodes) == (
        "- int8: validation set, 50 utterances; WER 5.00 % in fp32, 5.06 % here "
        "(budget +0.10); 99.88 % of fp32's tokens (budget 99.00 %); no layer kept back."
    )


def test_half_floats_measured_on_a_cpu_have_no_speed(decodes):
    note = quantized_markdown(decodes, emulated=True, slower=None, speed_ratio=None)
    assert note.endswith(
        "measured in arithmetic that a CPU emulates, its speed was not."
    )


def test_arithmetic_that_was_timed_is_named():
    def found(**systems):
        rows = [
            Result("test", name, 3, timing=Timing(3, 1.0, 1.0, 1.0, arithmetic=kind))
            for name, kind in systems.items()
        ]
        return [note for note in notes(rows) if "Products" in note]

    assert found(PyTorch=None, fp32="fp32", optimized="fp32") == []
    assert found(PyTorch=None, fp32="fp32", optimized="fp32", int8="int8") == [
        "Products were computed in: fp32 (fp32, optimized), int8 (int8)."
    ]
    [note] = found(fp32="fp32", int8=WIDE)
    assert note.startswith(
        "Products were computed in: fp32 (fp32), int8 in 16 bits (int8). 8-bit ones "
        "saturate on the processor that was timed"
    )


def test_what_a_quantized_voice_kept_of_its_budget():
    figures = dict(utterances=9, mcd=0.512, log_f0_rmse=0.0123, cer_fp32=7.0, cer=7.1)
    budget = dict(max_mcd=1.0, max_log_f0_rmse=0.1, max_cer_increase=0.5)
    figures.update(budget=budget, kept={}, slower=False)
    result = Result("test", "int8", 3, quantization=figures)
    assert list(notes([result])) == [
        "int8: validation set, 9 utterances; CER 7.00 % in fp32, 7.10 % here (budget "
        "+0.50); MCD to fp32 0.51 dB (budget 1.00); log-F0 RMSE to fp32 0.012 (budget "
        "0.100); no layer kept back."
    ]
    for name in ("mcd", "log_f0_rmse", "cer"):
        del figures[name]
    [note] = notes([result])
    assert "9 utterances; none of them long enough to be measured; no layer" in note


def test_layers_kept_and_a_slower_variant_are_told(decodes):
    kept = {"weight8": [f"encoder: l{i}" for i in range(6)], "fp32": ["lm: x"]}
    note = quantized_markdown(decodes, kept=kept, slower=True, speed_ratio=0.8)
    assert note.endswith(
        "kept: 6 layers in weight8 (encoder: l0, encoder: l1, encoder: l2, "
        "encoder: l3, encoder: l4, ...) and 1 layers in fp32 (lm: x); slower than "
        "fp32 on the machine that made it (0.80x)."
    )
    note = quantized_markdown(decodes, budget=None)
    assert "no budget was measured" in note and "WER" not in note


# What sacrebleu 2 writes behind ESPnet's title.
BLEU = """{title} BLEU result (single-reference)
[
{{
 "name": "BLEU",
 "score": {score},
 "signature": "nrefs:1|case:{case}|eff:no|tok:13a|smooth:exp|version:2.6.0",
 "nrefs": "1"
}},
{{
 "name": "chrF2",
 "score": 51.3,
 "signature": "nrefs:1|case:mixed|version:2.6.0"
}}
]
"""


def test_bleu_of_translations(decodes):
    for system, score in (("torch", 21.4), ("fp32", 21.1)):
        directory = decodes / system / "test_clean/score_bleu"
        directory.mkdir()
        lower = BLEU.format(title="Case insensitive", score=score + 2, case="lc")
        (directory / "result.lc.txt").write_text(lower)
        (directory / "result.tc.txt").write_text(
            BLEU.format(title="Case sensitive", score=score, case="mixed")
        )
    torch, fp32 = results = run_compare(decodes)
    assert torch.bleu["BLEU"].score == 21.4 and "BLEU" not in torch.differences
    assert fp32.differences["BLEU"] == pytest.approx(-0.3)
    markdown = to_markdown("T", {}, results)
    assert "| system | BLEU | Δ BLEU | BLEU lc.rm | Δ BLEU lc.rm | WER %" in markdown
    assert "| fp32 | 21.10 | -0.30 | 23.10 | -0.30 |" in markdown
    assert "BLEU: nrefs:1|case:mixed" in markdown.replace("\\", "")
    rows = list(csv.DictReader(to_csv(results).splitlines()))
    assert [(row["bleu"], row["bleu_lc_rm"]) for row in rows] == [
        ("21.4000", "23.4000"),
        ("21.1000", "23.1000"),
    ]


def test_of_several_references_all_are_taken(tmp_path):
    path = tmp_path / "result.lc.txt"
    one = BLEU.format(title="Case insensitive", score=10.0, case="lc")
    path.write_text(one + one.replace("10.0", "20.0"))
    assert read_bleu(path).score == 20.0
    path.write_text("Case insensitive BLEU result (single-reference)\n[\n{")
    with pytest.raises(PluginError, match="no BLEU of sacrebleu"):
        read_bleu(path)
