"""A vision transformer (Dosovitskiy et al., ICLR 2021, "An Image is Worth 16x16 Words"), with
torchvision's layers and names.

Attention is made of linear layers, so that it is packed like the rest: `in_proj`, the three
projections in one as torchvision stores them (its `in_proj_weight`), and `out_proj`. Class token
and position embedding are shared. The position embedding fixes the size of the images.
"""
from dataclasses import dataclass

import toolchain
from trunks.layers import Dropout

jt = toolchain.start()
from jittor import nn


@dataclass(frozen=True)
class ViTShape:
    image_size: int
    patch: int           # side of a patch in pixels
    layers: int
    heads: int           # of attention
    width: int
    hidden: int          # width inside an MLP
    dropout: float = 0.0
    pretrained: str = ""
    last: str = "heads.head"
    # (name in files, ours)
    renamed = (("in_proj_", "in_proj."), ("mlp.linear_1.", "mlp.0."), ("mlp.linear_2.", "mlp.3."))


class SelfAttention(nn.Module):
    """float32 [B, N, width] -> the same: each token looks at all."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        jt.init.xavier_uniform_(self.in_proj.weight)
        jt.init.zero_(self.in_proj.bias)
        jt.init.zero_(self.out_proj.bias)

    def execute(self, x: jt.Var) -> jt.Var:
        batch, count, width = x.shape
        projected = self.in_proj(x).reshape((batch, count, 3, self.heads, width // self.heads))
        projected = projected.permute(2, 0, 3, 1, 4)
        query, key, value = projected[0], projected[1], projected[2]
        scores = jt.matmul(query * (width // self.heads) ** -0.5, key.transpose(0, 1, 3, 2))
        seen = jt.matmul(nn.softmax(scores, dim=-1), value)  # [batch, heads, count, width / heads]
        return self.out_proj(seen.permute(0, 2, 1, 3).reshape((batch, count, width)))


class Block(nn.Module):
    """An encoder layer: attention and an MLP, each on what a layer norm gives, each added to what
    came in."""

    def __init__(self, shape: ViTShape) -> None:
        self.ln_1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.self_attention = SelfAttention(shape.width, shape.heads)
        self.dropout = Dropout(shape.dropout)
        self.ln_2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, shape.hidden),
            nn.GELU(),
            Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.width),
            Dropout(shape.dropout))
        for linear in (self.mlp[0], self.mlp[3]):
            jt.init.xavier_uniform_(linear.weight)
            jt.init.gauss_(linear.bias, 0, 1e-6)

    def execute(self, x: jt.Var) -> jt.Var:
        x = x + self.dropout(self.self_attention(self.ln_1(x)))
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    def __init__(self, shape: ViTShape) -> None:
        tokens = (shape.image_size // shape.patch) ** 2 + 1
        self.pos_embedding = jt.init.gauss((1, tokens, shape.width), "float32", 0, 0.02)
        self.dropout, self.layers = Dropout(shape.dropout), nn.Sequential()
        for number in range(shape.layers):
            self.layers.add_module(f"encoder_layer_{number}", Block(shape))
        self.ln = nn.LayerNorm(shape.width, eps=1e-6)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class ViT(nn.Module):
    """float32 [B, 3, S, S] -> [B, width]: what the class token has become."""

    def __init__(self, shape: ViTShape) -> None:
        self.class_token = jt.zeros((1, 1, shape.width))
        self.conv_proj = nn.Conv(3, shape.width, shape.patch, stride=shape.patch)
        jt.init.gauss_(self.conv_proj.weight, 0, (1 / (3 * shape.patch ** 2)) ** 0.5)
        jt.init.zero_(self.conv_proj.bias)
        self.encoder = Encoder(shape)
        self.num_features = shape.width

    def execute(self, x: jt.Var) -> jt.Var:
        patches = self.conv_proj(x)
        tokens = patches.reshape((x.shape[0], self.num_features, -1)).transpose(0, 2, 1)
        first = self.class_token.broadcast((x.shape[0], 1, self.num_features))
        return self.encoder(jt.concat([first, tokens], dim=1))[:, 0]
