"""A recommended sweep: its command, and the figure that its recorded run gives (results/sweep_*.json)."""

import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from kexue_ext.figures import FRAME

LOG = logging.getLogger(__name__)
UNRECORDED = "No run of this sweep is recorded yet."


class Sweep(SphinxDirective):
    """The argument is the command, the content says what is to be seen.

    ``entry`` is the entry of the record to be drawn; ``alt`` the sentence for readers who cannot see it.
    """

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = dict.fromkeys(("entry", "alt"), directives.unchanged_required)

    def run(self):
        """Return command, figure and words."""
        command = " ".join(self.arguments[0].split())
        slug = re.fullmatch(r"kexue sweep (\w+)( .*)?", command)
        missing = [name for name in self.option_spec if name not in self.options]
        if slug is None or missing or not self.content:
            raise self.error(
                "kexue-sweep: expected a command `kexue sweep SLUG …`, the options entry and alt, and words"
            )
        box = nodes.container(classes=["kexue-sweep"])
        block = nodes.literal_block(command, command, language="bash")
        box += block
        words = nodes.paragraph()
        inline, messages = self.parse_inline(" ".join(self.content))
        words += inline
        box += [*self.figure(slug[1], command), words]
        return [box, *messages]

    def figure(self, slug, command):
        """Return the drawing and when it was recorded, or a sentence that there is none."""
        from kexue_lib import figures, recorded, report

        file = Path(self.env.srcdir, "results", f"sweep_{slug}.json")
        for path in (str(file), report.__file__, figures.__file__):  # the drawing is made here, by these
            self.env.note_dependency(path)
        kept = recorded.load_sweep(slug)
        if kept is None:
            return [nodes.paragraph("", UNRECORDED)]
        entry = self.options["entry"]
        if kept.command != command or entry not in kept.table:
            LOG.warning(
                "%s was recorded with another command or entry", file.name, location=self.get_location()
            )
            return []
        import matplotlib.pyplot as plt

        drawing = report.drawing(kept.table, entry)
        markup = figures.svg(drawing, alt=self.options["alt"])
        plt.close(drawing)
        about = kept.about()
        return [
            nodes.raw("", FRAME.format(markup), format="html"),
            nodes.paragraph("", "", nodes.emphasis("", f"{about[0].upper()}{about[1:]}.")),
        ]
