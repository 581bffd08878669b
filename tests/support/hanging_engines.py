"""Small programs in place of vLLM that hang in different ways, unless they get the safe flags.

Each writes its pids, so that a test can check that no process is left behind.
"""

_BEGIN = """
import json, os, signal, subprocess, sys, time
RUN_DIR = os.environ["FLASH_RUN_DIR"]

def note(name, value):
    with open(f"{RUN_DIR}/.{name}", "w") as file:
        file.write(json.dumps(value))
    os.replace(f"{RUN_DIR}/.{name}", f"{RUN_DIR}/{name}")

def serve():
    print("INFO:     Application startup complete.", flush=True)
    names = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL")
    note("serving", {"args": sys.argv[1:], "env": {name: os.environ.get(name) for name in names}})
    time.sleep(600)

print("INFO 11-24 12:00:01 [pynccl.py:111] vLLM is using nccl==2.30.4", flush=True)
"""

_UNLESS_SAFE = """
if "--disable-custom-all-reduce" in sys.argv:
    serve()
"""

_WRITE_PIDS = """
note("pids", [os.getpid()])
"""

STILL = f"""{_BEGIN}{_UNLESS_SAFE}{_WRITE_PIDS}
time.sleep(600)
"""

STILL_WITH_ANY_FLAGS = f"""{_BEGIN}
time.sleep(600)
"""

STOPPED = f"""{_BEGIN}{_UNLESS_SAFE}{_WRITE_PIDS}
os.kill(os.getpid(), signal.SIGSTOP)
"""

DEAF = f"""{_BEGIN}{_UNLESS_SAFE}{_WRITE_PIDS}
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
"""

WITH_WORKERS = f"""{_BEGIN}{_UNLESS_SAFE}
WAIT = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
workers = [subprocess.Popen([sys.executable, "-c", WAIT]) for _ in range(2)]
note("pids", [os.getpid(), *[worker.pid for worker in workers]])
for worker in workers:
    worker.wait()
"""

# Three workers outside the engine's group: each in a session of its own, the second without its parent, and the third
# without its environment too.
SCATTERED = f"""{_BEGIN}{_UNLESS_SAFE}
APART = ("import os, sys, time; os.setsid(); print(os.getpid(), flush=True); os.close(1); time.sleep(600)")
LEAVE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {{APART!r}}])"
def worker(source, **more):
    process = subprocess.Popen([sys.executable, "-S", "-c", source], stdout=subprocess.PIPE, **more)
    return int(process.stdout.readline())
note("pids", [os.getpid(), worker(APART), worker(LEAVE), worker(LEAVE, env={{}})])
time.sleep(600)
"""

SERVING = f"""{_BEGIN}
serve()
"""

SERVING_WHILE_KERNELS_ARE_COMPILED = f"""{_BEGIN}{_UNLESS_SAFE}
compiler = f"{{RUN_DIR}}/ptxas"
with open(compiler, "w") as file:
    file.write(f"#!{{sys.executable}}\\nimport time\\ntime.sleep(600)\\n")
os.chmod(compiler, 0o755)
note("compiler", subprocess.Popen([compiler]).pid)
serve()
"""

SERVING_FOR_A_WHILE = f"""{_BEGIN}
print("INFO:     Application startup complete.", flush=True)
time.sleep(2)
"""

SILENT_FOR_A_WHILE = f"""{_BEGIN}
time.sleep(2)
"""

BUSY_FOR_A_WHILE = f"""{_BEGIN}
while time.process_time() < 3:
    pass
"""
