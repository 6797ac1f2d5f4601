"""The ``ecellm`` command: one thin function per verb.

Starts jobs, reads what they write and prints it; the work is done in the rooms below.
stdout is data, stderr is narration. Exit status: 0 done, 1 failed with one sentence on
stderr, 2 wrong usage. ``ecellm --help`` loads neither mlx nor transformers: each verb
imports what it needs when it runs. Nothing of the engine imports this room.

    app              all verbs together; demo, doctor and locate
    runs             train, resume, runs, stop, pause, checkpoint, watch
    together         train and resume as one rank of several
    follow           a job told on a terminal or in a pipe until it ends
    plan             plan
    models           models list, pull, import, quantize, show
    data             data pull, import, check, show, split
    evaluate         eval, score, compare, report
    generate         generate
    catalog          catalog show, preview, run, correct
    catalog_match    catalog match, pairs
    catalog_options  how what a user says of a table becomes a question
    catalog_finish   a catalog job watched to its end, and what came of it
    adapters         adapters inspect, to-peft, from-peft, verify
    export           adapters fuse; export hf, gguf
    push             push
    serve            serve
    study            study
    launch           launch: a verb on several machines, with a status to trust
    rank             ecellm as one rank of a launch
    demo             the tour of make demo
    doctor           is this machine ready
    options          options that verbs share
    output           data to stdout, narration to stderr
    progress         bars on a terminal, lines for a program
    reference        tables of settings for docs/, from their declarations
"""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Entry point of the ``ecellm`` command."""
    # With --debug a failure shows its traceback; the option is global.
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    else:
        warnings.showwarning = _one_line
    from ecellm_mlx.cli.app import app
    from ecellm_mlx.errors import EcellmError

    try:
        app()
    except EcellmError as error:
        if debug:
            raise
        sys.stderr.write(f"ecellm: {error}\n")
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our stdout has gone; that is its right.
        raise SystemExit(141) from None
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"ecellm: unexpected {type(error).__name__}: {error}; run again with --debug and "
            "report the traceback.\n"
        )
        raise SystemExit(1) from None


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a sentence; where in the code it was raised is for --debug."""
    sys.stderr.write(f"ecellm: warning: {message}\n")
