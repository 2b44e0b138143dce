"""Two things that the tools do again for every reference, done once.

Sphinx reads a whole page from disk for each numbered reference into it, and pybtex looks through all
installed packages for each citation. With nine long chapters that was a third of a build.
"""

from pybtex import plugin

PLAIN = ("pybtex.backends", "plaintext")


class Reading:
    """The environment, for those who only look into pages: each is read from disk once."""

    def __init__(self, env):
        self.env, self.pages = env, {}

    def __getattr__(self, name):
        """Return whatever else the environment has."""
        return getattr(self.env, name)

    def get_doctree(self, docname):
        """Return a page, which is not to be changed."""
        if docname not in self.pages:
            self.pages[docname] = self.env.get_doctree(docname)
        return self.pages[docname]


def numbered(app, env):
    """Let numbered references share what they read; all pages have been written by now."""
    domain, reading = env.get_domain("std"), Reading(env)
    resolve = type(domain)._resolve_numref_xref
    domain._resolve_numref_xref = lambda _, *rest: resolve(domain, reading, *rest)


def setup(app):
    """Register both."""
    plugin.register_plugin(*PLAIN, plugin.find_plugin(*PLAIN), force=True)
    app.connect("env-check-consistency", numbered)
