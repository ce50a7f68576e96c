"""Measures redis-server under redis-benchmark: starts it on a unix socket, loads it, asks for a digest, stops it.

The value is the server's CPU time: the client takes as much time as the server, and on a small machine the wall clock
shows how both were scheduled. The wall time of the load is kept beside it."""
import os
import subprocess
import time

from . import programs

TESTS = "set,get,incr,lpush,rpop,sadd,hset,spop,zadd,lrange_100,mset"
PATIENCE = 60  # seconds


def client(program, socket, *arguments, stdin=None):
    done = subprocess.run([programs.find(program), "-s", socket, *arguments], stdin=stdin, capture_output=True,
                          text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_until_up(process, socket):
    start = time.monotonic()
    while time.monotonic() - start < PATIENCE:
        if process.poll() is not None:
            raise RuntimeError("redis-server ended at once")
        try:
            if client("redis-cli", socket, "ping").strip() == "PONG":
                return
        except RuntimeError:
            pass
        time.sleep(0.02)
    raise RuntimeError("redis-server does not answer")


def load(socket, where, scale):
    """The measured load; returns its wall time."""
    start = time.monotonic()
    client("redis-benchmark", socket, "-q", "-n", str(int(100000 * scale)), "-r", "20000", "-d", "100", "-c", "20",
           "-P", "16", "-t", TESTS)
    client("redis-cli", socket, "flushall")
    with open(os.path.join(where, "commands")) as commands:
        client("redis-cli", socket, "--pipe", stdin=commands)
    return time.monotonic() - start


def measure(watch, program, variant, where, scale):
    socket = os.path.join(where, "socket")
    process = subprocess.Popen(watch.command(variant, program.command), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_up(process, socket)
        wall = load(socket, where, scale)
        digest = client("redis-cli", socket, "debug", "digest").strip()
        client("redis-cli", socket, "shutdown", "nosave")
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    sample = watch.cost()
    return {**sample, "wall": wall, "value": sample["cpu"], "digest": digest}
