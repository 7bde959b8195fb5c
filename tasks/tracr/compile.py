"""Compile RASP programs to transformers with tracr; write weights, description and the interpreter's answers.

Source: Lindner et al., "Tracr: Compiled Transformers as a Laboratory for Interpretability", 2023; the
programs are those of `tracr.compiler.lib`, which follow Weiss et al., "Thinking Like Transformers", 2021.

This script is not run by the benchmark. It needs an environment of its own, with

    tracr-pypi 1.0.0, jax 0.10.2, dm-haiku 0.0.17, numpy 2.4.6, safetensors 0.8.0

and is run as `python tasks/tracr/compile.py`. It is deterministic, and takes about a minute on one core.

Steps, for each program:
1. compile it for sequences of at most LENGTH tokens of VOCABULARY;
2. write `weights.safetensors`: all matrices, in float16 where that is exact, else in float32; biases, which
   are all zero in compiled models, are left out;
3. write `program.json`: ids of tokens, meaning of outputs, a label for each coordinate of the residual
   stream, and the shape of the network;
4. evaluate the RASP program itself, which involves no network, on every sequence of at most LENGTH tokens;
   check that the compiled model in haiku decodes to the same; write both the answers and the residual
   streams of one sequence to `interpreter.safetensors`, for the tests of the torch model.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

VOCABULARY = "abcd"
LENGTH = 5
EXAMPLE = "bacab"
HERE = Path(__file__).resolve().parent

PROGRAMS: dict[str, rasp.SOp] = {
    "reverse": lib.make_reverse(rasp.tokens),
    "histogram": lib.make_hist(),
    "frac-prevs": lib.make_frac_prevs(rasp.tokens == "a"),
}


def weights(model: Any) -> dict[str, np.ndarray]:
    """Matrices by short name, for example `layer_0.attn.query` (step 2)."""
    found = {}
    for module, parameters in model.params.items():
        for name, value in parameters.items():
            matrix = np.asarray(value, dtype=np.float32)
            if name == "b":
                assert not matrix.any(), f"{module} has a bias"
                continue
            key = module.removeprefix("transformer/").replace("/", ".").replace("linear_", "")
            half = matrix.astype(np.float16)
            found[key] = half if (half.astype(np.float32) == matrix).all() else matrix
    return found


def label(text: str) -> str:
    """A coordinate's label without tracr's running numbers: `length_7:3` becomes `length:3`."""
    name, colon, value = text.partition(":")
    parts = [part for part in name.split("_") if not part.isdigit()]
    return "_".join(parts) + colon + value


def describe(model: Any, program: rasp.SOp) -> dict[str, Any]:
    """Content of `program.json` (step 3)."""
    config = model.model_config
    labels = [label(text) for text in model.residual_labels]
    assert len(set(labels)) == len(labels), "two coordinates have one label"
    categorical = rasp.is_categorical(program)
    if categorical:
        values = sorted(model.output_encoder.encoding_map, key=model.output_encoder.encoding_map.get)
        output = [labels.index(f"{program.name}:{value}") for value in values]
    else:
        values, output = None, [labels.index(program.name)]
    encoding = {str(token): index for token, index in model.input_encoder.encoding_map.items()}
    return {
        "program": program.name,
        "compiler": {name: importlib.metadata.version(name) for name in ("tracr-pypi", "jax", "dm-haiku")},
        "tokens": [encoding[token] for token in VOCABULARY],
        "vocabulary": VOCABULARY,
        "bos": encoding[compiling.COMPILER_BOS],
        "pad": encoding[compiling.COMPILER_PAD],
        "length": LENGTH,
        "layers": config.num_layers,
        "heads": config.num_heads,
        "key_size": config.key_size,
        "hidden": config.mlp_hidden_size,
        "activation": "relu",
        "causal": config.causal,
        "layer_norm": config.layer_norm,
        "categorical": categorical,
        "output_values": values,
        "output_coordinates": output,
        "labels": labels,
    }


def interpreted(model: Any, program: rasp.SOp, description: dict[str, Any]) -> dict[str, np.ndarray]:
    """The program's own answers on all sequences, and one residual stream of the model in haiku (step 4)."""
    pad, categorical = description["pad"], description["categorical"]
    tokens, answers = [], []
    for length in range(1, LENGTH + 1):
        for sequence in itertools.product(VOCABULARY, repeat=length):
            answer = program(list(sequence))
            decoded = model.apply([compiling.COMPILER_BOS, *sequence]).decoded[1:]
            close = answer == decoded if categorical else np.allclose(answer, decoded, atol=1e-5)
            assert close, (sequence, answer, decoded)
            ids = model.input_encoder.encode([compiling.COMPILER_BOS, *sequence])
            tokens.append([*ids, *[pad] * (LENGTH - length)])
            if categorical:
                answer = [description["output_values"].index(value) for value in answer]
            answers.append([*answer, *[-1] * (LENGTH - length)])
    example = model.apply([compiling.COMPILER_BOS, *EXAMPLE])
    return {
        "tokens": np.array(tokens, dtype=np.int8),
        "answers": np.array(answers, dtype=np.int8 if categorical else np.float32),
        "example_tokens": np.array(model.input_encoder.encode([compiling.COMPILER_BOS, *EXAMPLE]), np.int8),
        # After every attention and every MLP, in order.
        "example_residuals": np.stack([np.asarray(x[0], np.float32) for x in example.residuals]),
        "example_embedding": np.asarray(example.input_embeddings[0], np.float32),
    }


def main() -> None:
    for name, program in PROGRAMS.items():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        model = compiling.compile_rasp_to_model(program, vocab=set(VOCABULARY), max_seq_len=LENGTH)
        description = describe(model, program)
        save_file(weights(model), folder / "weights.safetensors")
        (folder / "program.json").write_text(json.dumps(description, indent=1) + "\n")
        save_file(interpreted(model, program, description), folder / "interpreter.safetensors")
        print(name, {k: v for k, v in description.items() if k != "labels"}, description["labels"])
        print({k: (v.shape, v.dtype) for k, v in weights(model).items()})


if __name__ == "__main__":
    main()
