"""Episodes as Rerun recordings, for the Rerun viewer."""

from __future__ import annotations

from pathlib import Path

from mujepa.envs.task import Task
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file
from mujepa.visual.video import Recording


def check_rerun() -> None:
    """Raise `UserError` if the Rerun SDK is not installed."""
    try:
        import rerun  # noqa: F401
    except ImportError as error:
        raise UserError("a .rrd file needs the Rerun SDK: pip install 'mujepa[view]'") from error


def write_rerun(path: Path, recording: Recording, task: Task, step_s: float) -> None:
    """Write goal, camera, plan, imagined images, cost and distance by time, atomically."""
    import rerun as rr

    size = recording.images.shape[1]
    with replacing_file(path) as temporary:
        stream = rr.RecordingStream("mujepa", recording_id=f"mujepa-{task.name}")
        stream.save(temporary)
        stream.log("goal", rr.Image(recording.goal), static=True)
        for step, image in enumerate(recording.images):
            stream.set_time("step", sequence=step)
            stream.set_time("time", duration=step * step_s)
            stream.log("camera", rr.Image(image))
            distance = task.per_unit * recording.distance[step]
            stream.log(f"distance_{task.unit or 1}", rr.Scalars(distance))
            if step == len(recording.images) - 1:
                break  # there is no plan at the end
            now = recording.decision(step)
            stream.log("cost", rr.Scalars(recording.cost[now]))
            if recording.decoded is not None:
                stream.log("imagined", rr.Image(recording.decoded[now]))
            if recording.paths:
                stream.log("camera/plan", rr.LineStrips2D([recording.paths[now] * size]))
        stream.flush()
        stream.disconnect()
