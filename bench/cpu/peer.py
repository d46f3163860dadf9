#!/usr/bin/env python3
"""VLMo in PyTorch, to measure vlmo-train against.

Three ways through the same parameters (official state-dict names):

  plain  one pass for each of text, image, masked pair, own pair, pair with a
         negative image and pair with a negative text, as the original code
         does; padded captions with a mask, the position bias gathered to
         [N, N, heads] in every pass, every position decoded, one unfused
         AdamW update a parameter.
  tuned  the four pairs as one batch behind the unimodal passes, image
         embeddings shared, compiled blocks, fused AdamW.
  trimmed  tuned, and of the last block only the rows that a head reads, and
         masked positions decoded only: two of vlmo-train's exact savings.

Prints one line of JSON for each run. `--check DIR` instead holds all ways
against a parity case: losses, and the gradient of every parameter.

SPEC sections are those of ARCHITECTURE.md.
"""

import argparse
import json
import math
import os
import resource
import statistics
import struct
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CLS, SEP, MASK = 101, 102, 103
IMPLS = ("plain", "tuned", "trimmed")
LENGTHS, WORDS, HIDDEN, PIXELS = range(4)  # streams of synthetic data


class Config:
    def __init__(self, image=224, patch=16, dim=768, depth=12, heads=12, vl_start=10, vocab=30522, text=40,
                 text_init=196, types=2, relative=True, scale=0.1, drop=0.1):
        self.image, self.patch, self.dim, self.depth, self.heads = image, patch, dim, depth, heads
        self.vl_start, self.vocab, self.text, self.text_init, self.types = vl_start, vocab, text, text_init, types
        self.relative, self.scale, self.drop = relative, scale, drop
        self.window = image // patch
        self.patches = self.window**2


BASE = Config()
SMALL = Config(image=128, dim=192, depth=6, heads=3, vl_start=4, text=16, text_init=196, drop=0.0)


# Synthetic data. bench/cpu/data.go makes the same numbers.

GOLDEN = 0x9E3779B97F4A7C15


def words(step, stream, first, n):
    """n 64-bit words: SplitMix64's output function of step, stream and index."""
    i = np.arange(first, first + n, dtype=np.uint64) + np.uint64((step << 48) + (stream << 40) + 1)
    with np.errstate(over="ignore"):
        z = i * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Batch:
    """Captions of 8 to 16 tokens (or `fixed`), [CLS] and [SEP] included, padded to `pad`."""

    def __init__(self, c, step, n, pad, fixed=0):
        lengths = 8 + words(step, LENGTHS, 0, n) % np.uint64(9)
        if fixed:
            lengths[:] = fixed
        self.ids = np.zeros((n, pad), np.int64)
        self.masked = np.zeros((n, pad), np.int64)
        self.labels = np.full((n, pad), -100, np.int64)
        self.mask = np.zeros((n, pad), np.int64)
        for i in range(n):
            length = int(lengths[i])
            inner = length - 2
            self.ids[i, 0], self.ids[i, length - 1] = CLS, SEP
            self.ids[i, 1:length - 1] = 1000 + (words(step, WORDS, 64 * i, inner) % np.uint64(c.vocab - 1000)).astype(np.int64)
            hide = words(step, HIDDEN, 64 * i, inner) % np.uint64(100) < 15
            if not hide.any():
                hide[0] = True
            self.masked[i] = self.ids[i]
            self.masked[i, 1:length - 1][hide] = MASK
            self.labels[i, 1:length - 1][hide] = self.ids[i, 1:length - 1][hide]
            self.mask[i, :length] = 1
        for name in ("ids", "masked", "labels", "mask"):
            setattr(self, name, torch.from_numpy(getattr(self, name)))
        px = words(step, PIXELS, 0, n * 3 * c.image**2) >> np.uint64(56)  # bytes, normalised
        px = (px.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        self.image = torch.from_numpy(px.reshape(n, 3, c.image, c.image))
        self.hidden = (self.labels.view(-1) >= 0).nonzero()[:, 0]
        self.negatives = None

    def to(self, device):
        for name, x in vars(self).items():
            if x is not None:
                setattr(self, name, x.to(device))
        return self


# The model.


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(c.dim))
        self.v_bias = nn.Parameter(torch.zeros(c.dim))
        self.proj = nn.Linear(c.dim, c.dim)

    def split(self, x):
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def split_rows(self, x, rows):
        """Queries of the first rows alone."""
        b, n, d = x.shape
        q = F.linear(x[:, :rows], self.qkv.weight[:d], self.q_bias).view(b, rows, 1, self.heads, d // self.heads)
        bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        kv = F.linear(x, self.qkv.weight[d:], bias).view(b, n, 2, self.heads, d // self.heads)
        return (*q.permute(2, 0, 3, 1, 4).unbind(0), *kv.permute(2, 0, 3, 1, 4).unbind(0))

    def plain(self, x, mask, bias):
        q, k, v = self.split(x)
        q = q * q.shape[-1] ** -0.5
        logits = q.float() @ k.float().transpose(-2, -1)
        if bias is not None:
            logits = logits + bias.unsqueeze(0)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :].bool(), float("-inf"))
        y = logits.softmax(-1).type_as(x) @ v
        return self.proj(y.transpose(1, 2).flatten(2))

    def tuned(self, x, pad, bias, sdpa, rows):
        q, k, v = self.split(x) if rows == 0 else self.split_rows(x, rows)
        if rows and bias is not None:
            bias = bias[:, :rows]
        add = bias if pad is None else (pad if bias is None else bias + pad)
        if sdpa:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if add is None else add.to(q.dtype))
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            if add is not None:
                logits = logits + add
            y = logits.float().softmax(-1).to(v.dtype) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


def drop_path(x, rate, training):
    if rate == 0 or not training:
        return x
    keep = x.new_empty((x.shape[0], 1, 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


class Block(nn.Module):
    """SPEC 2."""

    def __init__(self, c, index):
        super().__init__()
        self.index, self.vl_start = index, c.vl_start
        self.rate = c.drop * index / max(1, c.depth - 1)
        if c.scale:
            self.gamma_1 = nn.Parameter(c.scale * torch.ones(c.dim))
            self.gamma_2 = nn.Parameter(c.scale * torch.ones(c.dim))
        else:
            self.gamma_1 = self.gamma_2 = 1.0
        self.norm1 = nn.LayerNorm(c.dim, eps=1e-6)
        self.attn = Attention(c)
        for m in ("text", "imag", "vl") if index >= c.vl_start else ("text", "imag"):
            setattr(self, "norm2_" + m, nn.LayerNorm(c.dim, eps=1e-6))
            setattr(self, "mlp_" + m, Mlp(c.dim))

    def ffn(self, x, m):
        return self.gamma_2 * getattr(self, "mlp_" + m)(getattr(self, "norm2_" + m)(x))

    def plain(self, x, mask, bias, expert, text=0):
        x = x + drop_path(self.gamma_1 * self.attn.plain(self.norm1(x), mask, bias), self.rate, self.training)
        if expert != "pair":
            return x + drop_path(self.ffn(x, expert), self.rate, self.training)
        if self.index >= self.vl_start:
            return x + drop_path(self.ffn(x, "vl"), self.rate, self.training)
        t, i = x[:, :text], x[:, text:]
        t = t + drop_path(self.ffn(t, "text"), self.rate, self.training)
        i = i + drop_path(self.ffn(i, "imag"), self.rate, self.training)
        return torch.cat((t, i), 1)

    # keep holds three drop path factors a sample: attention, FFN of the text
    # or of all, FFN of the image. With rows, what follows reads only the first
    # rows of each sequence.
    def tuned(self, x, pad, bias, keep, expert: str, text: int, sdpa: bool, rows: int = 0):
        y = self.gamma_1 * self.attn.tuned(self.norm1(x), pad, bias, sdpa, rows)
        if rows:
            x = x[:, :rows]
        x = x + (y if keep is None else y * keep[0])
        if expert != "pair":
            y = self.ffn(x, expert)
            return x + (y if keep is None else y * keep[1])
        t, i = self.ffn(x[:, :text], "text"), self.ffn(x[:, text:], "imag")
        if keep is not None:
            t, i = t * keep[1], i * keep[2]
        return x + torch.cat((t, i), 1)


class Embedding(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab, c.dim)
        self.position_embeddings = nn.Embedding(c.text, c.dim)
        self.token_type_embeddings = nn.Embedding(2, c.dim)
        self.LayerNorm = nn.LayerNorm(c.dim, eps=1e-12)
        self.relative, self.rate = c.relative, c.drop

    def forward(self, ids):
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        if not self.relative:
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        return F.dropout(self.LayerNorm(x), self.rate, self.training)


class Holder(nn.Module):
    """Gives its children the official names."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class VLMo(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, d = c, c.dim
        if c.relative:
            square = (2 * c.window - 1) ** 2 + 3
            self.relative_position_bias_table = nn.Parameter(torch.zeros(square + 2 * c.text_init + 2, c.depth * c.heads))
            for kind, index in ("image", image_index(c)), ("text", text_index(c, c.text)), ("pair", pair_index(c, c.text)):
                self.register_buffer("index_" + kind, index, persistent=False)
        self.text_embeddings = Embedding(c)
        self.token_type_embeddings = nn.Embedding(c.types, d)
        self.transformer = Holder(
            patch_embed=Holder(proj=nn.Conv2d(3, d, c.patch, c.patch)),
            blocks=nn.ModuleList(Block(c, i) for i in range(c.depth)), norm=nn.LayerNorm(d, eps=1e-6))
        self.transformer.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        if not c.relative:
            self.transformer.pos_embed = nn.Parameter(torch.zeros(1, 1 + c.patches, d))
        self.pooler = Holder(dense=nn.Linear(d, d))
        self.mlm_score = Holder(transform=Holder(dense=nn.Linear(d, d), LayerNorm=nn.LayerNorm(d, eps=1e-12)),
                                decoder=nn.Linear(d, c.vocab, bias=False))
        self.mlm_score.bias = nn.Parameter(torch.zeros(c.vocab))
        self.itm_score = Holder(fc=nn.Linear(d, 2))
        for name in ("itc_text_proj", "itc_image_proj", "itc_vl_text_proj", "itc_vl_image_proj"):
            setattr(self, name, Holder(fc=nn.Linear(d, d, bias=False)))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_vl_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for name, p in self.named_parameters():
            if p.dim() > 1 and name != "relative_position_bias_table":
                nn.init.normal_(p, std=0.02)

    # Shared parts.

    def embed_text(self, ids):
        return self.text_embeddings(ids) + self.token_type_embeddings.weight[0]

    def embed_image(self, image):
        x = self.transformer.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.transformer.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x), 1)
        if not self.c.relative:
            x = x + self.transformer.pos_embed
        return x + self.token_type_embeddings.weight[1]

    def pool(self, x):
        return torch.tanh(self.pooler.dense(x[:, 0]))

    def decode(self, x):
        t = self.mlm_score.transform
        return self.mlm_score.decoder(t.LayerNorm(F.gelu(t.dense(x)))) + self.mlm_score.bias

    def bias(self, kind):
        """The position bias of every layer, [heads, N, N] each; SPEC 4."""
        if not self.c.relative:
            return [None] * self.c.depth
        all_layers = F.embedding(getattr(self, "index_" + kind), self.relative_position_bias_table)  # [N, N, layers·heads]
        return all_layers.permute(2, 0, 1).contiguous().chunk(self.c.depth)

    def contrast(self, text, image, vl):
        """ITC of one branch and its cosines times the scale; SPEC 7."""
        infix = "itc_vl_" if vl else "itc_"
        t = F.normalize(getattr(self, infix + "text_proj").fc(text).float(), dim=-1)
        i = F.normalize(getattr(self, infix + "image_proj").fc(image).float(), dim=-1)
        logits = (self.logit_vl_scale if vl else self.logit_scale).exp() * (i @ t.t())
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2, logits

    @staticmethod
    @torch.no_grad()
    def negatives(logits):
        """A hard negative image for every text, and a text for every image."""

        def draw(l):
            w = l.float().softmax(1)
            w.fill_diagonal_(0)
            # As torch.multinomial draws, but a GPU is not waited for.
            return (w / torch.empty_like(w).exponential_()).argmax(1)

        return draw(logits.t()), draw(logits)

    @staticmethod
    def matching(match):
        """The labels of ITM: the first third are pairs."""
        labels = torch.zeros(len(match), dtype=torch.long, device=match.device)
        labels[: len(match) // 3] = 1
        return labels

    # The plain way.

    def plain_unimodal(self, x, mask, kind):
        bias = self.bias(kind)
        expert = "imag" if kind == "image" else "text"
        for i, b in enumerate(self.transformer.blocks):
            if i == self.c.vl_start:
                y = x
            x = b.plain(x, mask, bias[i], expert)
            if i >= self.c.vl_start:
                y = b.plain(y, mask, bias[i], "vl")
        return self.transformer.norm(x)[:, 0], self.transformer.norm(y)[:, 0]

    def plain_pair(self, ids, mask, image):
        x = torch.cat((self.embed_text(ids), self.embed_image(image)), 1)
        mask = torch.cat((mask, mask.new_ones(len(ids), 1 + self.c.patches)), 1)
        bias = self.bias("pair")
        for i, b in enumerate(self.transformer.blocks):
            x = b.plain(x, mask, bias[i], "pair", ids.shape[1])
        return self.transformer.norm(x)

    def plain_pretrain(self, b):
        n, t = b.ids.shape
        x = self.plain_pair(b.masked, b.mask, b.image)[:, :t]
        mlm = 0.25 * F.cross_entropy(self.decode(x).view(n * t, -1).float(), b.labels.view(-1), ignore_index=-100)
        image, image_vl = self.plain_unimodal(self.embed_image(b.image), None, "image")
        text, text_vl = self.plain_unimodal(self.embed_text(b.ids), b.mask, "text")
        own, logits = self.contrast(text, image, False)
        vl, _ = self.contrast(text_vl, image_vl, True)
        ni, nt = b.negatives or self.negatives(logits)
        rows = [self.pool(self.plain_pair(b.ids, b.mask, b.image)),
                self.pool(self.plain_pair(b.ids, b.mask, b.image[ni])),
                self.pool(self.plain_pair(b.ids[nt], b.mask[nt], b.image))]
        match = self.itm_score.fc(torch.cat(rows)).float()
        return mlm, (own + vl) / 2, F.cross_entropy(match, self.matching(match))

    # The tuned way.

    def compile(self, how, sdpa, trim):
        self.sdpa, self.trim = sdpa, trim
        self.run = Block.tuned
        if how != "none":
            torch._dynamo.config.cache_size_limit = 256
            self.run = torch.compile(Block.tuned, dynamic=False, mode=None if how == "default" else how)

    def keep(self, rate, x):
        if rate == 0 or not self.training:
            return None
        return torch.empty(3, len(x), 1, 1, device=x.device).bernoulli_(1 - rate).div_(1 - rate).unbind(0)

    def tuned_unimodal(self, x, pad, kind, vl):
        bias = self.bias(kind)
        expert = "imag" if kind == "image" else "text"
        y = x
        for i, b in enumerate(self.transformer.blocks):
            top = int(self.trim and i == self.c.depth - 1)
            if i >= self.c.vl_start and vl:
                y = self.run(b, y if i > self.c.vl_start else x, pad, bias[i], self.keep(b.rate, x), "vl", 0, self.sdpa, top)
            x = self.run(b, x, pad, bias[i], self.keep(b.rate, x), expert, 0, self.sdpa, top)
        return self.transformer.norm(x[:, 0]), self.transformer.norm(y[:, 0])

    def pad(self, mask):
        return torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, float("-inf"))[:, None, None, :]

    def tuned_pretrain(self, b):
        n, t = b.ids.shape
        e = self.embed_image(b.image)
        image, image_vl = self.tuned_unimodal(e, None, "image", True)
        text, text_vl = self.tuned_unimodal(self.embed_text(b.ids), self.pad(b.mask), "text", True)
        itc, logits = self.contrast(text, image, False)
        itc_vl, _ = self.contrast(text_vl, image_vl, True)
        ni, nt = b.negatives or self.negatives(logits)
        ids = torch.cat((b.masked, b.ids, b.ids, b.ids[nt]))
        mask = torch.cat((b.mask, b.mask, b.mask, b.mask[nt]))
        x = torch.cat((self.embed_text(ids), torch.cat((e, e, e[ni], e))), 1)
        pad = self.pad(torch.cat((mask, mask.new_ones(4 * n, 1 + self.c.patches)), 1))
        bias = self.bias("pair")
        *lower, top = self.transformer.blocks
        for i, blk in enumerate(lower if self.trim else self.transformer.blocks):
            expert = "vl" if i >= self.c.vl_start else "pair"
            x = self.run(blk, x, pad, bias[i], self.keep(blk.rate, x), expert, t, self.sdpa)
        if self.trim:
            text = self.run(top, x[:n], pad[:n], bias[-1], self.keep(top.rate, x[:n]), "vl", t, self.sdpa, t)
            own = self.run(top, x[n:], pad[n:], bias[-1], self.keep(top.rate, x[n:]), "vl", t, self.sdpa, 1)
            text, labels = text.flatten(0, 1)[b.hidden], b.labels.view(-1)[b.hidden]
        else:
            text, own, labels = x[:n, :t].flatten(0, 1), x[n:], b.labels.view(-1)
        hidden = self.decode(self.transformer.norm(text))
        mlm = 0.25 * F.cross_entropy(hidden.float(), labels, ignore_index=-100)
        match = self.itm_score.fc(self.pool(self.transformer.norm(own))).float()
        return mlm, (itc + itc_vl) / 2, F.cross_entropy(match, self.matching(match))

    # Embedding for retrieval: the modality's own branch.

    def embed(self, b, kind, tuned):
        x, mask = (self.embed_image(b.image), None) if kind == "image" else (self.embed_text(b.ids), b.mask)
        if tuned:
            x, _ = self.tuned_unimodal(x, None if mask is None else self.pad(mask), kind, False)
        else:
            bias = self.bias(kind)
            for i, blk in enumerate(self.transformer.blocks):
                x = blk.plain(x, mask, bias[i], "imag" if kind == "image" else "text")
            x = self.transformer.norm(x)[:, 0]
        return F.normalize(getattr(self, f"itc_{kind}_proj").fc(x).float(), dim=-1)


def rows(c):
    square = (2 * c.window - 1) ** 2 + 3
    return square, square + 2 * c.text_init + 2


def image_index(c):
    w = c.window
    y, x = np.divmod(np.arange(c.patches), w)
    square, _ = rows(c)
    index = np.empty((1 + c.patches, 1 + c.patches), np.int64)
    index[1:, 1:] = (y[:, None] - y + w - 1) * (2 * w - 1) + x[:, None] - x + w - 1
    index[0, :], index[:, 0], index[0, 0] = square - 3, square - 2, square - 1
    return torch.from_numpy(index)


def text_index(c, n):
    square, a = rows(c)
    i = np.arange(n)
    index = square + c.text_init + i[None, :] - i[:, None]
    index[0, :], index[:, 0], index[0, 0] = a - 3, a - 2, a - 1
    return torch.from_numpy(index)


def pair_index(c, n):
    square, _ = rows(c)
    image = image_index(c)
    top = torch.cat((text_index(c, n), torch.full((n, len(image)), square)), 1)
    return torch.cat((top, torch.cat((torch.full((len(image), n), square + 1), image), 1)))


def decayed(name):
    return not any(s in name for s in ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight"))


class PlainAdamW:
    """SPEC 8: one update a parameter, eps before the bias correction, decay after the update."""

    def __init__(self, model, lr, betas, eps, decay):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.params = [(p, decay if decayed(name) else 0.0) for name, p in model.named_parameters()]
        self.state, self.step_count = {}, 0

    @torch.no_grad()
    def step(self):
        self.step_count += 1
        b1, b2 = self.betas
        for p, decay in self.params:
            if p.grad is None:
                continue
            if p not in self.state:
                self.state[p] = (torch.zeros_like(p), torch.zeros_like(p))
            m, v = self.state[p]
            m.mul_(b1).add_(p.grad, alpha=1 - b1)
            v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            size = self.lr * math.sqrt(1 - b2**self.step_count) / (1 - b1**self.step_count)
            p.addcdiv_(m, v.sqrt().add_(self.eps), value=-size)
            if decay:
                p.add_(p, alpha=-self.lr * decay)

    def zero_grad(self):
        for p, _ in self.params:
            p.grad = None


def optimizer(model, tuned):
    if not tuned:
        return PlainAdamW(model, 1e-5, (0.9, 0.98), 1e-8, 0.01)
    named = list(model.named_parameters())
    groups = [{"params": [p for n, p in named if decayed(n)], "weight_decay": 0.01},
              {"params": [p for n, p in named if not decayed(n)], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.98), eps=1e-8, fused=True)


# Work and speed.


def flops(c, task, n, text):
    """Multiply-adds of the products, times 2: what the plain way needs, padding included."""
    d = c.dim
    image = 1 + c.patches

    def blocks(length, count):
        return count * (24 * d * d * length + 4 * length * length * d)

    patch = 2 * c.patches * 3 * c.patch**2 * d
    if task == "embed-image":
        return n * (blocks(image, c.depth) + patch)
    if task == "embed-text":
        return n * blocks(text, c.depth)
    both = blocks(image, 2 * c.depth - c.vl_start) + blocks(text, 2 * c.depth - c.vl_start)
    pairs = 4 * blocks(image + text, c.depth)
    return 3 * n * (both + pairs + 5 * patch + text * 2 * d * c.vocab)


def peak(dtype, clock, size=2048, device="cpu", seconds=1.0):
    """GFLOP/s of a size³ product, the fastest of those that fit into the time."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    best, start = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - start < seconds:
        t = clock()
        torch.mm(a, b)
        best = min(best, clock() - t)
    return 2 * size**3 / best / 1e9


def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bench(a):
    c = SMALL if a.task == "small" else BASE
    n = a.batch or {"pretrain": 8, "small": 64}.get(a.task, 32)
    pad = c.text if a.pad == "full" else 16
    c.text = pad
    tuned = a.impl != "plain"
    dtype = torch.bfloat16 if a.precision == "bf16" else torch.float32
    torch.manual_seed(1)
    model = VLMo(c)
    if tuned:
        model.compile(a.compile, a.attention == "sdpa", a.impl == "trimmed")
    clock = time.perf_counter
    if a.clock == "cpu":
        def clock():
            return time.process_time() / a.threads
    before = peak(dtype, clock)

    def batch(step):
        return Batch(c, step, n, pad, 16 if a.task == "small" else 0)

    cast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    if a.task.startswith("embed"):
        model.eval()
        kind = a.task.split("-")[1]

        def step(b):
            with torch.inference_mode(), cast:
                model.embed(b, kind, tuned)
            return []
    else:
        model.train()
        opt = optimizer(model, tuned)

        def step(b):
            with cast:
                losses = (model.tuned_pretrain if tuned else model.plain_pretrain)(b)
            sum(losses).backward()
            opt.step()
            opt.zero_grad()
            return [x.item() for x in losses]

    seconds = []
    for i in range(a.warmup + a.steps):
        b = batch(i)
        start = clock()
        losses = step(b)
        seconds.append(clock() - start)
        print(f"{a.impl} {a.task} {a.precision}: step {i} {seconds[-1]:.2f} s {losses}", file=sys.stderr, flush=True)
    warm, seconds = seconds[: a.warmup], seconds[a.warmup:]
    after = peak(dtype, clock)
    per = statistics.median(seconds)
    speed = flops(c, a.task, n, pad) / per / 1e9
    print(json.dumps({
        "task": a.task, "precision": a.precision, "threads": a.threads, "clock": a.clock, "impl": "torch-" + a.impl, "batch": n,
        "warmup": warm, "seconds": seconds, "per_second": n / per, "peak_rss": rss(), "gflops": speed,
        "gemm_peak": max(before, after), "share": speed / max(before, after), "losses": losses,
        "options": {"pad": pad, "compile": a.compile if tuned else "none", "attention": a.attention if tuned else "plain",
                    "preload": os.environ.get("LD_PRELOAD", "")},
        "torch": torch.__version__}))


# Parity.


def safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    types = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "BOOL": np.bool_, "U8": np.uint8}
    out = {}
    for name, t in json.loads(data[8: 8 + n]).items():
        if name != "__metadata__":
            lo, hi = t["data_offsets"]
            x = np.frombuffer(data[8 + n + lo: 8 + n + hi], types[t["dtype"]]).reshape(t["shape"])
            out[name] = torch.from_numpy(x.copy())
    return out


def check(folder, how, sdpa):
    with open(os.path.join(folder, "case.json"), encoding="utf-8") as f:
        case = json.load(f)
    k = case["config"]
    weights, inputs, outputs, grads = (safetensors(os.path.join(folder, name + ".safetensors"))
                                       for name in ("weights", "inputs", "outputs", "grads"))
    c = Config(image=k["image_size"], patch=k["patch_size"], dim=k["embed_dim"], depth=k["depth"], heads=k["num_heads"],
               vl_start=k["vlffn_start_layer_index"], vocab=k["vocab_size"], text=k["max_text_len"],
               text_init=k["max_text_len_of_initckpt"], relative=k["rel_pos_bias"],
               scale=0.1 if k["layer_scale"] else 0.0, drop=0.0)
    b = SimpleNamespace(
        ids=inputs["text_ids"], mask=inputs["text_masks"], masked=inputs["text_ids_mlm"], labels=inputs["text_labels_mlm"],
        image=inputs["image"], hidden=(inputs["text_labels_mlm"].view(-1) >= 0).nonzero()[:, 0],
        negatives=(inputs["itm_neg_image_idx"].long(), inputs["itm_neg_text_idx"].long()))
    worst = 0.0
    for impl in IMPLS:
        model = VLMo(c)
        missing, extra = model.load_state_dict({n: w for n, w in weights.items() if n in model.state_dict()}, strict=False)
        if missing:
            sys.exit(f"check: no weights for {missing}{extra}")
        model.compile(how, sdpa, impl == "trimmed")
        losses = (model.plain_pretrain if impl == "plain" else model.tuned_pretrain)(b)
        sum(losses).backward()
        for name, value in zip(("mlm_loss", "itc_loss", "itm_loss"), losses):
            want = outputs["loss." + name].item()
            worst = max(worst, abs(value.item() - want) / abs(want))
            print(f"{impl} {name} {value.item():.7f}, original {want:.7f}")
        for name, p in model.named_parameters():
            if (p.grad is None) != (name not in grads):
                sys.exit(f"check: {impl}: {name} has a gradient in one of the two alone")
            if p.grad is not None:
                e = ((p.grad - grads[name]).norm() / grads[name].norm().clamp(min=1e-6)).item()
                if e > 1e-4:
                    sys.exit(f"check: {impl}: the gradient of {name} differs by {e:.2g}")
                worst = max(worst, e)
    if not worst < 1e-4:
        sys.exit(f"check: the largest relative error is {worst:.2g}")
    print(f"largest relative error {worst:.2g}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--impl", choices=IMPLS, default="plain")
    p.add_argument("--task", choices=("pretrain", "embed-image", "embed-text", "small"), default="pretrain")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, default=0, help="0: the task's own")
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--pad", choices=("full", "longest"), default="full", help="captions to 40 tokens, or to the 16 of the longest")
    p.add_argument("--compile", default="default", help="of the tuned way: none, default, or a mode of torch.compile")
    p.add_argument("--attention", choices=("manual", "sdpa"), default="manual", help="of the tuned way")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                   help="cpu: processor time over threads, for a machine that does other work as well")
    p.add_argument("--check", metavar="DIR", help="compare with a parity case and stop")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.check:
        check(a.check, a.compile, a.attention == "sdpa")
    else:
        bench(a)


if __name__ == "__main__":
    main()
