"""The reference GANs as their public implementations have them, written plainly, for benchmarks to compare with.

float32 in NCHW, batch normalisation, D called on real and on made images one after the other, G called anew for its
own move, Adam. The DCGAN: Radford et al., arXiv:1511.06434, as tutorials write it. StyleGAN2: Karras et al.,
arXiv:1912.04958, with a kernel for each image (grouped convolutions) and smoothing filters as passes of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.stylegan import widths_of

SIZE, CHANNELS, WIDTH, LATENT = 32, 3, 64, 128  # of the images and networks that are timed


def plain_generator(size: int, channels: int, width: int, latent: int = 100) -> nn.Sequential:
    """The DCGAN's generator with batch normalisation, down from 4x4."""
    count = int(math.log2(size / 4))
    widths = [min(2**i, 8) * width for i in range(count)][::-1]
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], 4, 1, 0, bias=False)]
    for level, wide in enumerate(widths):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(True)]
        outputs = widths[level + 1] if level + 1 < count else channels
        layers.append(nn.ConvTranspose2d(wide, outputs, 4, 2, 1, bias=False))
    return nn.Sequential(*layers, nn.Tanh()).apply(plain_weights)


def plain_discriminator(size: int, channels: int, width: int) -> nn.Sequential:
    count = int(math.log2(size / 4))
    layers: list[nn.Module] = []
    wide = channels
    for level in range(count):
        outputs = min(2**level, 8) * width
        layers.append(nn.Conv2d(wide, outputs, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(outputs)] if level else []
        layers.append(nn.LeakyReLU(0.2, True))
        wide = outputs
    return nn.Sequential(*layers, nn.Conv2d(wide, 1, 4, 1, 0, bias=False), nn.Flatten(0)).apply(plain_weights)


def plain_weights(layer: nn.Module) -> None:
    """The textbook's first weights."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def plain_dcgan(g: nn.Module, d: nn.Module, draw: Callable[[], Tensor]) -> Iterator[int]:
    """The tutorials' loop over batches of real images, yielding the images of each step."""
    of_d, of_g = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (d, g))
    while True:
        real = draw()
        batch, device = len(real), real.device
        ones, zero = torch.ones(batch, device=device), torch.zeros(batch, device=device)
        d.zero_grad()
        F.binary_cross_entropy_with_logits(d(real), ones).backward()
        with torch.no_grad():
            fake = g(torch.randn(batch, 100, 1, 1, device=device))
        F.binary_cross_entropy_with_logits(d(fake), zero).backward()
        of_d.step()
        g.zero_grad()
        F.binary_cross_entropy_with_logits(d(g(torch.randn(batch, 100, 1, 1, device=device))), ones).backward()
        of_g.step()
        yield batch


def smooth(x: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """The filter [1, 3, 3, 1] as a pass of its own."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    kernel = (line[:, None] * line * gain)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1])


class PlainModulated(nn.Module):
    """The kernel of each image, and one grouped convolution."""

    def __init__(self, inputs: int, outputs: int, style: int, kernel: int = 3, up: bool = False, norm: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.style, self.up, self.norm = nn.Linear(style, inputs), up, norm
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, c, h, side = x.shape
        weight = self.weight * self.style(w)[:, None, :, None, None]
        if self.norm:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, b * c, h, side)
        if self.up:
            weight = weight.transpose(1, 2).flatten(0, 1)
            x = F.conv_transpose2d(x, weight, stride=2, groups=b)
            return smooth(x.view(b, -1, *x.shape[2:]), (1, 1), 4.0)
        x = F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=b)
        return x.view(b, -1, h, side)


class PlainStyle(nn.Module):
    """The skip generator as the reference has it."""

    def __init__(self) -> None:
        super().__init__()
        widths = widths_of(SIZE, WIDTH, 1)
        self.mapping = nn.ModuleList(nn.Linear(LATENT, LATENT) for _ in range(4))
        self.start = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.convs, self.pixels = nn.ModuleList(), nn.ModuleList()
        self.bias, self.strength = nn.ParameterList(), nn.ParameterList()
        for level, wide in enumerate(widths):
            for inputs, up in ([(widths[level - 1], True)] if level else []) + [(wide, False)]:
                self.convs.append(PlainModulated(inputs, wide, LATENT, up=up))
                self.bias.append(nn.Parameter(torch.zeros(wide, 1, 1)))
                self.strength.append(nn.Parameter(torch.zeros(())))
            self.pixels.append(PlainModulated(wide, CHANNELS, LATENT, 1, norm=False))
        self.last = nn.Parameter(torch.zeros(CHANNELS, 1, 1))

    def styles(self, z: Tensor) -> Tensor:
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            z = F.leaky_relu(layer(z), 0.2) * math.sqrt(2)
        return z

    def forward(self, w: Tensor) -> Tensor:
        x, picture, layer = self.start.expand(len(w), -1, -1, -1), None, 0
        for level, pixels in enumerate(self.pixels):
            for _ in range(2 if level else 1):
                x = self.convs[layer](x, w)
                x = x + self.strength[layer] * torch.randn(len(x), 1, *x.shape[2:], device=x.device) + self.bias[layer]
                x = F.leaky_relu(x, 0.2) * math.sqrt(2)
                layer += 1
            output = pixels(x, w)
            if picture is not None:
                wide = picture.new_zeros(len(x), CHANNELS, 2 * picture.shape[2], 2 * picture.shape[3])
                wide[:, :, ::2, ::2] = picture
                output = output + smooth(wide, (2, 1), 4.0)
            picture = output
        assert picture is not None
        return picture + self.last


class PlainDown(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 3, stride=2)
        self.join = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2) * math.sqrt(2)
        h = F.leaky_relu(self.second(smooth(h, (2, 2))), 0.2) * math.sqrt(2)
        return (h + self.join(smooth(x, (1, 1)))) / math.sqrt(2)


class PlainDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = widths_of(SIZE, WIDTH, 1)[::-1]
        self.into = nn.Conv2d(CHANNELS, widths[0], 1)
        self.blocks = nn.Sequential(*(PlainDown(i, o) for i, o in itertools.pairwise(widths)))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.out = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * widths[-1], widths[-1]), nn.LeakyReLU(0.2), nn.Linear(widths[-1], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.leaky_relu(self.into(x), 0.2) * math.sqrt(2))
        group = x.view(4, -1, *x.shape[1:])
        plane = (group.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, plane.repeat(4)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
        return self.out(F.leaky_relu(self.last(x), 0.2))[:, 0]


def plain_stylegan2(batch: int, device: torch.device) -> Iterator[int]:
    """The reference's training loop, yielding the images of each step."""
    torch.manual_seed(0)
    g, d = PlainStyle().to(device), PlainDiscriminator().to(device)
    of_d, of_g = (torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.0, 0.99)) for net in (d, g))
    pictures, mean = torch.rand(1024, CHANNELS, SIZE, SIZE) * 2 - 1, torch.zeros((), device=device)

    def z(rows: int = batch) -> Tensor:
        return torch.randn(rows, LATENT, device=device)

    for step in itertools.count():
        real = pictures[torch.randint(0, len(pictures), (batch,))].to(device)
        d.zero_grad()
        with torch.no_grad():
            fake = g(g.styles(z()))
        (F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()).backward()
        of_d.step()
        if step % 16 == 0:
            d.zero_grad()
            real.requires_grad_(True)
            (slope,) = torch.autograd.grad(d(real).sum(), real, create_graph=True)
            (slope.square().sum((1, 2, 3)).mean() * 8).backward()
            of_d.step()
        g.zero_grad()
        F.softplus(-d(g(g.styles(z())))).mean().backward()
        of_g.step()
        if step % 4 == 0:
            g.zero_grad()
            w = g.styles(z(batch // 2))
            output = g(w)
            (slope,) = torch.autograd.grad((output * torch.randn_like(output) / SIZE).sum(), w, create_graph=True)
            length = slope.square().sum(1).sqrt()
            mean = mean.lerp(length.mean().detach(), 0.01)
            ((length - mean).square().mean() * 8).backward()
            of_g.step()
        yield batch
