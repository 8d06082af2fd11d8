"""``osworld-env tunnel``: an env server or router, made reachable on a machine that cannot reach it, through ssh."""
