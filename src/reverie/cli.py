"""The door: ``reverie --help`` imports next to nothing; a verb and what it needs are imported when it is called."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import reverie
from reverie.core.errors import ReverieError, UsageError, speak_of_flags, suggest, to_stdout
from reverie.core.terminal import printable, say

HELP = """reverie {version}: train, sample and look inside every family of image generator

usage: reverie VERB ...                       (reverie VERB --help explains one)

train
  train [MODEL]           train a model into a run directory           reverie train flow-matching --data emoji
  resume RUN              continue a run, bit for bit; --steps N or --minutes M extends it, also when it is finished
  rerun RUN               repeat a run from its run.json
  distill RUN             a diffusion run in 1 to 4 steps, a flow in one; a StyleGAN's direction as an editor

use
  sample RUN              new samples, or a film of sampling           reverie sample runs/flow-matching-emoji -n 64
  reconstruct RUN         images beside their reconstructions
  interpolate RUN A B     a morph between two images                   reverie interpolate RUN a.png b.png --out m.webp
  traverse RUN            one latent at a time
  mix RUN                 style mixing of a StyleGAN
  restore RUN TASK IMAGE  denoise, inpaint, complete, super-resolution, colorize; --stream FILE films it
  translate RUN IMAGE     an image of one domain as one of another     reverie translate runs/pix2pix-emoji a.png
  dream IMAGE             DeepDream, and films that zoom into it       reverie dream cat.jpg --film zoom.webp
  filters NET [LAYER]     what the filters of a network, or of a run's, respond to   reverie filters vgg16 relu4_1
  stylize CONTENT STYLE   a photograph in the style of a painting      reverie stylize photo.jpg painting.jpg
  forward RUN             the forward process of diffusion: images under ever more noise
  view RUN [VIEW]         samples, latent-map, trajectory ... of a run as an image

codes
  codes RUN ...           maps of the codes of several models, scores, files  reverie codes RUN RUN --with pca
  pretrain RUN ...        classifiers with few labels: from a run's encoder, and from random weights
  anomalies RUN DATA      unusual images: ROC curve, threshold, where in the image   reverie anomalies RUN mnist
  search RUN IMAGE        the nearest images of a data set; --bits hashes codes   reverie search RUN a.png --data photos
  rates RUN ...           compression by codes beside JPEG and WebP: bits per pixel against PSNR

compress
  compress RUN IMAGE ...  images without loss, beside PNG, WebP and JPEG XL   reverie compress runs/codec-photos a.png
  decompress FILE ...     the images of such files; --run RUN names the run that compressed them

measure
  evaluate RUN            scores of its samples, with interval, floor and passport   reverie evaluate runs/vae-emoji
  doctor RUN              problems of a GAN's training, and what to do

exchange
  export RUN OUT          a folder that diffusers loads                reverie export runs/ddpm-fashion out
  import FOLDER           a run of a diffusers folder                  reverie import ddpm-cifar10 --out runs/cifar

list
  models [PATTERN]        every model: system, taxonomy, verbs, paper
  runs [FOLDER]           every run: model, data, status, steps, scores; --sheet FILE shows their samples
  show RUN                one run: its options, data, status, scores, verbs
  data [SOURCE]           what a folder or data set holds, and what is wrong with it
  weights [NAME ...]      pretrained networks: what is here, --fetch, --verify

SOURCE is a folder, fashion, emoji, mnist, binary-mnist, fashion-mnist, cifar10, stacked-mnist, photos, FILE.npz,
SHARD.tar or hf:owner/name.
RUN is a run directory or a checkpoint inside one. Results go to stdout, progress to stderr; --json prints for machines.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C or SIGTERM (a training keeps all it has done).
Documentation: docs/ in the source. Start with: reverie train"""

_TEXTS = dict.fromkeys(("-h", "--help", "help"), HELP) | dict.fromkeys(("-V", "--version"), "reverie {version}")
_SMALLER = {  # what takes less memory
    "train": "a smaller --size, --width or --batch-size, or a larger --accumulate",
    "filters": "a smaller --size or fewer --channel",
    "interpolate": "fewer --frames",
    "restore": "fewer images or --samples",
    **dict.fromkeys(("dream", "stylize"), "a smaller --size or --memory"),
    **dict.fromkeys(("sample", "evaluate", "reconstruct", "forward", "view", "codes"), "a smaller -n"),
}
_TRAIN = ("train", "resume", "rerun", "distill")


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C or SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb, *rest = arguments or ["--help"]
    status = _run(verb, rest)
    if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1"):
        # gloo's threads may outlive the group and abort a finished rank while the interpreter shuts down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


def _run(verb: str, rest: list[str]) -> int:
    spoke = speak_of_flags(True)
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        if verb in _TEXTS:
            with to_stdout():
                print(_TEXTS[verb].format(version=reverie.__version__))
            return 0
        from reverie.commands import COMMANDS  # seconds, in which Ctrl-C may be pressed

        if verb not in COMMANDS:
            raise UsageError(f"There is no verb {verb!r}.{suggest(verb, list(COMMANDS))} See reverie --help.")
        with _terminable():
            COMMANDS[verb](rest)
    except ReverieError as error:
        first, *rest = error.args
        say(sys.stderr, f"reverie {verb}: {first}", *rest)
        return 2 if isinstance(error, UsageError) else 1
    except (RuntimeError, MemoryError) as error:
        from reverie.core.memory import is_exhausted

        if not is_exhausted(error):
            raise
        reason = (str(error) or "of Python objects").splitlines()[0][:160]
        remedy = f"Take {_SMALLER[verb]}" if verb in _SMALLER else "Close other programs"
        kept = " Checkpoints are kept." if verb in _TRAIN else ""
        say(sys.stderr, f"reverie {verb}: out of memory ({reason}). {remedy}.{kept}")
        return 1
    except KeyboardInterrupt:
        say(sys.stderr, f"reverie {verb}: interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `reverie models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = before
        speak_of_flags(spoke)
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt, as Ctrl-C is; where it is ignored or handled, it stays so."""
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL or threading.current_thread() != threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"Warning: {printable(message, sys.stderr)}\n"
