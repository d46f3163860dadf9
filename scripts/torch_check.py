"""The PyTorch side of the tests of torch files in weights and vlmo.

    torch_check.py read FILE.pt FILE.safetensors [mmap]
        loads FILE.pt with weights_only and compares every tensor with that of
        the safetensors file, bit by bit
    torch_check.py write FOLDER SEED
        writes files of torch.save with random tensors to FOLDER, and for each
        a safetensors file of what it holds
"""

import collections
import inspect
import json
import os
import struct
import sys

import torch

NAMES = {
    "F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
}
DTYPES = {v: k for k, v in NAMES.items()}


def raw(tensor):
    """A tensor's bytes in row-major order."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel() == 0:
        return b""
    return bytes(flat.view(torch.uint8).tolist())


def read_safetensors(path):
    """name -> (dtype, shape, bytes), by the format's description."""
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    body = data[8 + n :]
    return {k: (v["dtype"], v["shape"], body[v["data_offsets"][0] : v["data_offsets"][1]]) for k, v in header.items()}


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, t in tensors.items():
        b = raw(t)
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [len(body), len(body) + len(b)]}
        body += b
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)


def read(pt, truth, *options):
    how = {"mmap": True} if "mmap" in options else {}
    if how and "mmap" not in inspect.signature(torch.load).parameters:
        print(f"PyTorch {torch.__version__} maps no files")
        return
    got = torch.load(pt, weights_only=True, **how)
    want = read_safetensors(truth)
    if list(got) and set(got) != set(want):
        sys.exit(f"names differ: {sorted(set(got) ^ set(want))}")
    for name, (dtype, shape, data) in want.items():
        t = got[name]
        if t.dtype != NAMES[dtype] or list(t.shape) != shape or raw(t) != data or not t.is_contiguous():
            sys.exit(f"{name}: {t.dtype} {list(t.shape)} differs from {dtype} {shape}")
    print(f"{len(want)} tensors are equal")


def write(folder, seed):
    torch.manual_seed(int(seed))
    base = torch.randn(6, 10)
    state = collections.OrderedDict(
        whole=base, row=base[3], column=base[:, 4], turned=base.t(), part=base[1:5:2, 2:7], flat=base.view(-1)[7:23],
        expanded=torch.randn(3, 1).expand(3, 5), permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        parameter=torch.nn.Parameter(torch.randn(4, 3)), scalar=torch.tensor(2.5), empty=torch.zeros(0, 3),
        last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    )
    for name, dtype in NAMES.items():
        if dtype == torch.bool:
            state[name] = torch.rand(11) > 0.5
        elif dtype.is_floating_point or dtype.is_complex:
            state[name] = torch.randn(3, 7).to(dtype)
        else:
            state[name] = torch.randint(0, 120, (3, 7)).to(dtype)
    for zipped in (True, False):
        for protocol in (2, 4):
            path = os.path.join(folder, f"{'zip' if zipped else 'legacy'}{protocol}")
            extra = {"epoch": 3, "lr": [1e-3, (2.0, None)], "flag": True, "device": torch.device("cpu"), "size": torch.Size([2, 3])}
            torch.save({"model": state, **extra}, path + ".pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            write_safetensors(path + ".safetensors", {k: v.detach() for k, v in state.items()})
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5))
    torch.save(module.state_dict(), os.path.join(folder, "module.pt"))
    write_safetensors(os.path.join(folder, "module.safetensors"), module.state_dict())


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
