"""Programs that nobody has read are run here: limited, isolated, and judged from outside.

- `execute`: the one way in: jobs of programs in, outcomes with evidence out, in order;
- `isolation`: what isolates them on this machine: bubblewrap, or user namespaces, or nothing;
- `namespaces`: user namespaces without bubblewrap, by system calls;
- `seccomp`: system calls that programs are refused;
- `runner`: the process with number 1 of each sandbox; starts the programs, limits and ends them;
- `harness`: what goes on in the process of a program;
- `definitions`, `cases`: test code, taken into steps of the harness, outside;
- `values`: values as the harness writes them and the outside reads them;
- `verdicts`, `results`: what is said of a program, outside;
- `blocks`: the program in an answer, before anything is run.

`namespaces`, `seccomp`, `runner`, `harness` and the writing half of `values` run inside, on the
standard library alone; no module of this package imports more than it needs, since each start pays
for it.
"""
