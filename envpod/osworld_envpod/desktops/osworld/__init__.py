"""Desktops of desktop-env's own providers: its code, in the task worker's environment, behind our interface."""

from osworld_envpod.desktops.osworld.desktop import BootedDesktop, Booter

__all__ = ["BootedDesktop", "Booter"]
