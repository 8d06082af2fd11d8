"""Chromium under the name of Chrome: the profile's name and the search engine, in its own settings."""

from programs.agent import Agent

PROFILE_NAME = "chrome/2ae9ba84-3a0d-4d4c-8338-3a1478dc5fe3"
SEARCH_ENGINE = "chrome/bb5e4c0d-f964-439c-97b6-bdb9747de3f4"
PREFERENCES = "~/.config/google-chrome/Default/Preferences"
"""Saved up to ten seconds after a change."""
ADDRESS_BAR = "Address and search bar"


def begin(agent: Agent, task: str) -> None:
    agent.begin(task)
    agent.await_focus("New Tab")
    agent.await_shown("document-web", "New Tab")


def visit(agent: Agent, address: str, title: str) -> None:
    agent.press("ctrl l")
    agent.await_keyboard("entry", ADDRESS_BAR)
    agent.type(f"{address}\n")
    agent.await_focus(title)


def test_the_profile_is_renamed(agent: Agent) -> None:
    begin(agent, PROFILE_NAME)
    visit(agent, "chrome://settings/manageProfile", "Customize profile")
    agent.click("entry", "Name")
    agent.await_keyboard("entry", "Name")
    agent.press("ctrl a")
    agent.type("Thomas\n")
    agent.await_text(PREFERENCES, '"name":"Thomas"')
    assert agent.finish() == 1.0


def test_the_search_engine_is_changed(agent: Agent) -> None:
    begin(agent, SEARCH_ENGINE)
    visit(agent, "chrome://settings/searchEngines", "Manage search engines")
    agent.click("push-button", "More actions for Microsoft Bing")
    agent.click("menu-item", "Make default")
    agent.await_text(PREFERENCES, '"short_name":"Microsoft Bing"')
    assert agent.finish() == 1.0


def test_a_browser_that_nobody_touches_scores_nothing(agent: Agent) -> None:
    for task in (PROFILE_NAME, SEARCH_ENGINE):
        begin(agent, task)
        assert agent.finish() == 0.0
