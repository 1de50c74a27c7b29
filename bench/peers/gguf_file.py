"""A Qwen3 model folder as a GGUF file, and quantized by llama.cpp's own quantizer.

    python gguf_file.py FOLDER OUT.gguf [Q8_0=OUT.gguf …]

Runs in the peers' environment: needs the `gguf` package, and llama-cpp-python to quantize. The
weights go in as they are (bfloat16 or float32), so that every side rounds the same numbers.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

TYPES = {"BF16": np.uint16, "F32": np.float32}

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}
"""`llama_ftype` in llama.h."""


def write(folder: Path, path: Path) -> None:
    """Writes the model of `folder` (one safetensors file, byte-level BPE) to `path`."""
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen3", "only the Qwen3 layout"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _tokenizer(writer, folder, config)
    for name, kind, values in tensors(folder / "model.safetensors"):
        target = _name(name)
        if values.ndim == 1:  # norms stay exact, as llama.cpp expects them
            writer.add_tensor(target, _floats(values, kind))
        elif kind == "BF16":
            writer.add_tensor(target, values, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(path: Path) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
    """(name, type, values) of a safetensors file, memory-mapped; bfloat16 as its bits."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = TYPES[entry["dtype"]]
            flat = np.memmap(
                path, kind, "r", 8 + size + begin, (end - begin) // np.dtype(kind).itemsize
            )
            yield name, entry["dtype"], flat.reshape(entry["shape"])


def quantize(source: Path, kind: str, target: Path) -> None:
    """Quantizes a GGUF file as llama.cpp's own tool does by default."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {kind} (status {status})")


def _floats(values: npt.NDArray[Any], kind: str) -> npt.NDArray[np.float32]:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32)


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _tokenizer(writer: gguf.GGUFWriter, folder: Path, config: Mapping[str, Any]) -> None:
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spelling = {i: token for token, i in value["model"]["vocab"].items()}
    special = {t["id"]: t["content"] for t in value["added_tokens"]}
    kinds, tokens = [], []
    for i in range(config["vocab_size"]):
        unused = i not in spelling and i not in special
        tokens.append(f"[unused {i}]" if unused else special.get(i) or spelling[i])
        control = gguf.TokenType.UNUSED if unused else gguf.TokenType.CONTROL
        kinds.append(control if unused or i in special else gguf.TokenType.NORMAL)
    merges = [m if isinstance(m, str) else " ".join(m) for m in value["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    eos = config["eos_token_id"]
    if eos is not None:
        writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    if config["pad_token_id"] is not None:
        writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def main(folder: str, out: str, *quantized: str) -> None:
    write(Path(folder), Path(out))
    for each in quantized:
        kind, _, path = each.partition("=")
        quantize(Path(out), kind, Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
