"""A process that a launcher has started ends when the launcher, or another of its processes, is gone.

Nobody else would end it, and it would hold its GPU.
"""

import os
import signal
import threading
import time

EVERY, PATIENCE = 2.0, 30.0  # seconds between two looks, and from the signal to the end of a process that does not take it


def watch() -> None:
    """Look at the parent from now on, where a launcher has started several processes.

    Without it, the process gets a SIGTERM, so that a training step is finished and saved as far as the others are still there. One that waits for
    another process within a library does not hear of it, and is ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        threading.Thread(target=_until_alone, args=(os.getppid(),), daemon=True).start()


def is_loss(error: RuntimeError) -> bool:
    """Whether an error of a process is that another one of its run cannot be reached."""
    import torch

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return several and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))


def loss(error: RuntimeError) -> str:
    """What is said then."""
    place = f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}"
    why = str(error).partition("\n")[0].partition(" This is typically")[0]
    return (
        f"peft-unlearn: {place} cannot reach another one, so it ends; if there is a checkpoint, the run goes on with "
        f"--resume_from_checkpoint true ({why})"
    )


def _until_alone(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.write(2, b"\npeft-unlearn: the launcher is gone, so this process ends\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)
