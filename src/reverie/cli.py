"""The door: ``reverie --help`` imports next to nothing; a verb and what it needs are imported when it is called."""

from __future__ import annotations

import os
import sys
import warnings

import reverie
from reverie.core.errors import ReverieError, UsageError, suggest

HELP = """reverie {version}: train, sample and look inside every family of image generator

usage: reverie VERB ...                       (reverie VERB --help tells all about one)

make
  train [MODEL]           train a model and leave a run directory    reverie train vae --data emoji --minutes 5
  resume RUN              continue a run, bit for bit; --steps N or --minutes M extends it, also when it is finished
  rerun RUN               repeat a run from its run.json
  distill RUN             a copy of a diffusion run that draws in 1 to 4 steps; a StyleGAN's direction as an editor

draw
  sample RUN              new pictures                                reverie sample runs/vae-emoji -n 64 --out grid.png
                          or a film of the way to them               reverie sample RUN -n 8 --stream way.webp
  forward RUN             what diffusion learns to undo: pictures under ever more noise
  reconstruct RUN         pictures beside what the model makes of them
  interpolate RUN A B     a morph between two pictures               reverie interpolate RUN a.png b.png --out m.webp
  traverse RUN            one latent at a time
  mix RUN                 a StyleGAN's pictures with the coarse styles of one and the fine ones of another
  restore RUN TASK IMAGE  clean a degraded picture
  translate RUN IMAGE     a picture of one domain in the manner of another   reverie translate runs/pix2pix-emoji a.png

judge
  evaluate RUN            scores of its samples, with interval, floor and passport   reverie evaluate runs/vae-emoji

exchange
  export RUN OUT          a folder that diffusers loads               reverie export runs/ddpm-fashion out
  import FOLDER           a run of a diffusers folder                 reverie import ddpm-cifar10 --out runs/cifar

know
  models                  every model: system, taxonomy, verbs, paper
  runs [FOLDER]           every run: model, data, status, steps, scores; --sheet FILE shows their samples
  show RUN                one run: its options, data, status, scores, what it can do
  data [SOURCE]           what a folder or data set holds, and what is wrong with it
  doctor RUN              what ails a GAN's training, and what to do
  weights [NAME ...]      pretrained networks: what is here, --fetch, --verify

SOURCE is a folder, fashion, emoji, mnist, fashion-mnist, cifar10, stacked-mnist, FILE.npz, SHARD.tar or hf:owner/name.
RUN is a run directory or a checkpoint inside one. Results go to stdout, progress to stderr; --json prints for machines.
Exit codes: 0 done, 1 failed, 2 wrong use. Documentation: docs/ in the source. Start with: reverie train"""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(version=reverie.__version__))
        raise SystemExit(0)
    if arguments[0] in ("-V", "--version"):
        print(f"reverie {reverie.__version__}")
        raise SystemExit(0)
    status = _run(arguments[0], arguments[1:])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # gloo's threads may outlive the group: one that asks for an interpreter being taken down aborts a finished rank
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


def _run(verb: str, rest: list[str]) -> int:
    from reverie.commands import COMMANDS

    before, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"Warning: {message}\n"
    try:
        if verb not in COMMANDS:
            raise UsageError(f"There is no verb {verb!r}.{suggest(verb, list(COMMANDS))} See reverie --help.")
        COMMANDS[verb](rest)
    except UsageError as error:
        print(f"reverie {verb}: {error}", file=sys.stderr)
        return 2
    except ReverieError as error:
        print(f"reverie {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"reverie {verb}: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `reverie models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = before
    return 0
