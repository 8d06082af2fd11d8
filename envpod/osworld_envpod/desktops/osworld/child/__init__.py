"""desktop-env's providers, run by the task worker's interpreter, a process for each machine. Imports none of ours."""
