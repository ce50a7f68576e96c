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
    meaning: str
    command: list                          # argv; None where it is not installed
    make: object = None                    # writes the inputs, called once before the first run
    environment: dict = dataclasses.field(default_factory=dict)
    stdin: str = ""                        # a path, or nothing
    server: bool = False                   # redis: the measured process is a server driven from outside


def find(program):
    return shutil.which(program, path=os.defpath)


def compiler_proper():
    """cc1, so that the driver's, assembler's and linker's time stays out."""
    gcc = find("gcc")
    found = gcc and subprocess.run([gcc, "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    return found if found and os.path.isabs(found) else None


def make_repository(where, commits):
    """A bare repository with one pack, and the revision to pack again."""
    inputs.git_stream(os.path.join(where, "history"), commits)
    git, repository = find("git"), os.path.join(where, "repository")
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": where}
    subprocess.run([git, "init", "-q", "--bare", repository], check=True, env=environment)
    with open(os.path.join(where, "history")) as stream:
        subprocess.run([git, "-C", repository, "fast-import", "--quiet"], check=True, stdin=stream, env=environment)
    with open(os.path.join(where, "revisions"), "w") as out:
        out.write("main\n")


def all_programs(where, scale):
    """Every program, its inputs below the directory `where` not yet made."""
    def path(name):
        return os.path.join(where, name)

    def script(name):
        return os.path.join(HERE, name)

    def command(program, *arguments):
        return program and [program, *arguments]

    def make(function, name, size):
        return lambda: function(path(name), int(size * scale) + 10)

    return [
        Program("sqlite3", "in-memory inserts, indexes, joins, updates", command(find("sqlite3"), "-batch", ":memory:"),
                make(inputs.sql, "in.sql", 90000), stdin=path("in.sql")),
        Program("python3", "dictionaries, JSON, syntax trees; PYTHONMALLOC=malloc",
                command(find("python3"), "-sSB", script("work.py"), str(int(4000 * scale))),
                environment={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}),
        Program("gcc", "cc1 -O2 on a generated file",
                command(compiler_proper(), "-quiet", "-O2", path("in.c"), "-o", "-"),
                make(inputs.c_source, "in.c", 70)),
        Program("perl", "hashes, matches, sorting", command(find("perl"), script("work.pl"), path("perl.txt")),
                make(inputs.text, "perl.txt", 100000), environment={"PERL_HASH_SEED": "0"}),
        Program("lua5.4", "tables, closures, strings",
                command(find("lua5.4"), script("work.lua"), str(int(2500 * scale)))),
        Program("jq", "groups and sorts generated JSON", command(find("jq"), "-f", script("work.jq"), path("in.json")),
                make(inputs.records, "in.json", 17000)),
        Program("gawk", "associative arrays, substitution",
                command(find("gawk"), "-f", script("work.awk"), path("awk.txt")),
                make(inputs.text, "awk.txt", 35000), environment={"LC_ALL": "C"}),
        Program("git", "repacks a generated history",
                command(find("git"), "-C", path("repository"), "pack-objects", "--revs", "--no-reuse-delta",
                        "--no-reuse-object", "--threads=1", "--window=20", "--stdout", "-q"),
                lambda: make_repository(where, int(1200 * scale) + 20), stdin=path("revisions"),
                environment={"GIT_CONFIG_NOSYSTEM": "1", "HOME": where}),
        Program("redis", "the server under redis-benchmark, over a unix socket: its CPU time and memory",
                find("redis-benchmark") and find("redis-cli") and
                command(find("redis-server"), "--port", "0", "--unixsocket", path("socket"), "--save", "",
                        "--appendonly", "no", "--dir", where, "--jemalloc-bg-thread", "no",
                        "--enable-debug-command", "yes", "--logfile", path("log")),
                make(inputs.redis_commands, "commands", 20000), server=True),
    ]
