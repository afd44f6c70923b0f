"""Owns the GGUF file: trained weights and tokenizer in, one file for llama.cpp out (Q8_0, norms F32).

usage: python export.py OUT_DIR demo.gguf
"""

import json
import sys
from pathlib import Path

import gguf
import numpy
import torch

import corpus
from model import Model, Shape

# ChatML. No system message is made up when the caller sends none.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DESCRIPTION = "A tiny chat model that knows about bees, beekeeping, honey and rbees. It ships with rbees as a demonstration."
TOKENIZER_FILE = "tokenizer.json"


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].get)
    special = {corpus.STOP, corpus.START, corpus.END}
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in saved["merges"]])
    writer.add_bos_token_id(tokens.index(corpus.STOP))
    writer.add_eos_token_id(tokens.index(corpus.END))
    writer.add_pad_token_id(tokens.index(corpus.STOP))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    saved = torch.load(max(source.glob("round*.pt")), weights_only=False)
    shape: Shape = saved["shape"]
    model = Model(shape)
    model.load_state_dict(saved["weights"])

    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_name("rbees demo")
    writer.add_description(DESCRIPTION)
    writer.add_author("the rbees project")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    add_shape(writer, shape)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, source / TOKENIZER_FILE)
    for name, weight in model.named_parameters():
        values = weight.detach().numpy().astype(numpy.float32)
        # The names in model.py are llama.cpp's own: blk.0.attn_q.weight and so on.
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{target}: {target.stat().st_size:,} bytes, after {saved['step']} steps")


if __name__ == "__main__":
    main()
