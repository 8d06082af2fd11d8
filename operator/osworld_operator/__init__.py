"""The operator: keeps a pool of env pods and its router as an OSWorldEnv says."""
