"""A trainer's outside for tests of chains: steps, checkpoints, rank 0's report, exit codes.

The script TRAINER is started as ranks; `plan` in the run directory says what each segment does, a
word a line.
"""

from __future__ import annotations

TRAINER = """
import json, os, pathlib, signal, sys, time
run, name = pathlib.Path(os.environ["ALPENGLOW_RUN"]), os.environ["ALPENGLOW_SEGMENT"]
report, left = run / "segments" / f"{name}.rank0.json", run / f"{name}.left"
if os.environ.get("JSM_NAMESPACE_RANK", os.environ.get("SLURM_PROCID")) != "0":
    until = [float("inf")]  # a TERM leaves rank 0 a moment to save
    signal.signal(signal.SIGTERM, lambda *_: until.append(time.monotonic() + 2))
    while not left.exists():
        if time.monotonic() > until[-1]:
            sys.exit(143)
        time.sleep(0.02)
    sys.exit(int(left.read_text()))
plan = (run / "plan").read_text().split()
number = len(list((run / "segments").glob("*.rank0.json")))
word = plan[min(number, len(plan) - 1)]
done = [int(p.parent.name[5:]) for p in (run / "checkpoints").glob("*/manifest.json")]
since = max(done, default=0)
def tell(durable):
    report.write_text(json.dumps({"resumed_from_step": since, "last_step": durable or since,
                                  "last_durable_checkpoint": durable, "heartbeat": time.time()}))
def save(step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
    tell(step)
def leave(code):
    left.with_suffix(".new").write_text(str(code))
    left.with_suffix(".new").rename(left)
    os._exit(code)
def on_signal(*_):
    for number in (signal.SIGURG, signal.SIGTERM):  # srun hands on what Slurm has sent already
        signal.signal(number, signal.SIG_IGN)
    save(since + 10)
    leave(85)
tell(None)
if word == "gone":
    leave(9)
if word == "full":
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(bytes(4096))
if word in ("warned", "killed", "parent", "stop", "deaf", "heeds"):
    signal.signal(signal.SIGURG, on_signal)
    if word == "heeds":
        signal.signal(signal.SIGTERM, on_signal)
    if word == "deaf":
        for number in (signal.SIGURG, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if word not in ("warned", "heeds"):
        save(since + 5)
    print("ready", flush=True)
    while word != "stop" or not (run / "STOP").exists():
        time.sleep(0.02)
    leave(85)
save(since + 10)
leave({"more": 85, "complete": 0}[word])
"""
