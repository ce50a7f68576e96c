"""The real programs of the bench: what to generate, what to run.

A program is measured by running one command under one allocator; what it prints must not depend on the allocator.
Programs are Debian's, looked for where Debian installs them and not where a user's PATH may lead."""
import dataclasses
import os
import shutil
import subprocess

from . import inputs

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass
class Program:
    name: str
    command: list           # argv
    meaning: str
    environment: dict = dataclasses.field(default_factory=dict)
    stdin: str = ""         # a path, or nothing
    server: bool = False    # redis: the measured process is a server driven from outside


def find(program):
    return shutil.which(program, path=os.defpath)


def compiler_proper():
    """cc1, so that the driver's, assembler's and linker's time stays out."""
    gcc = find("gcc")
    found = gcc and subprocess.run([gcc, "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    return found if found and os.path.isabs(found) else None


def prepare_git(where, scale):
    """A repository of loose history in one pack; returns its path."""
    repository = os.path.join(where, "repository")
    inputs.git_stream(os.path.join(where, "history"), int(1200 * scale) + 20)
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": where}
    subprocess.run([find("git"), "init", "-q", "--bare", repository], check=True, env=environment)
    with open(os.path.join(where, "history")) as stream:
        subprocess.run([find("git"), "-C", repository, "fast-import", "--quiet"], check=True, stdin=stream, env=environment)
    with open(os.path.join(where, "revisions"), "w") as out:
        out.write("main\n")
    return repository


def prepare(where, scale):
    """Writes the inputs below the directory `where`; returns (programs, [(name, why it is left out)])."""
    def path(name):
        return os.path.join(where, name)

    def script(name):
        return os.path.join(HERE, name)

    cc1, found, missing = compiler_proper(), [], []

    def add(name, program, make, command, meaning, **more):
        if program is None:
            return missing.append((name, "not installed"))
        if make:
            make()
        found.append(Program(name, [program, *command()], meaning, **more))

    add("sqlite3", find("sqlite3"), lambda: inputs.sql(path("in.sql"), int(90000 * scale)), lambda: ["-batch", ":memory:"],
        "in-memory inserts, indexes, joins, updates", stdin=path("in.sql"))
    add("python3", find("python3"), None, lambda: ["-sSB", script("work.py"), str(int(4000 * scale))],
        "dictionaries, JSON, syntax trees; PYTHONMALLOC=malloc", environment={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"})
    add("gcc", cc1, lambda: inputs.c_source(path("in.c"), int(70 * scale) + 10),
        lambda: ["-quiet", "-O2", path("in.c"), "-o", "-"], "cc1 -O2 on a generated file")
    add("perl", find("perl"), lambda: inputs.text(path("perl.txt"), int(100000 * scale)),
        lambda: [script("work.pl"), path("perl.txt")], "hashes, matches, sorting", environment={"PERL_HASH_SEED": "0"})
    add("lua5.4", find("lua5.4"), None, lambda: [script("work.lua"), str(int(2500 * scale))], "tables, closures, strings")
    add("jq", find("jq"), lambda: inputs.records(path("in.json"), int(17000 * scale)),
        lambda: ["-f", script("work.jq"), path("in.json")], "groups and sorts generated JSON")
    add("gawk", find("gawk"), lambda: inputs.text(path("awk.txt"), int(35000 * scale)),
        lambda: ["-f", script("work.awk"), path("awk.txt")], "associative arrays, substitution", environment={"LC_ALL": "C"})
    add("git", find("git"), lambda: prepare_git(where, scale),
        lambda: ["-C", path("repository"), "pack-objects", "--revs", "--no-reuse-delta", "--no-reuse-object", "--threads=1",
                 "--window=20", "--stdout", "-q"],
        "repacks a generated history", stdin=path("revisions"), environment={"GIT_CONFIG_NOSYSTEM": "1", "HOME": where})
    add("redis", find("redis-server"), lambda: inputs.redis_commands(path("commands"), int(20000 * scale)),
        lambda: ["--port", "0", "--unixsocket", path("socket"), "--save", "", "--appendonly", "no", "--dir", where,
                 "--jemalloc-bg-thread", "no", "--enable-debug-command", "yes", "--logfile", path("redis.log")],
        "the server under redis-benchmark, over a unix socket: its CPU time and memory", server=True)
    if found and found[-1].server and not (find("redis-benchmark") and find("redis-cli")):
        missing.append((found.pop().name, "redis-benchmark or redis-cli is not installed"))
    return found, missing
