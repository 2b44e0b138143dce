"""Figures of `kexue_lib.figures` in the book: inline SVG that follows the theme, alt text, sliders.

myst-nb asks once for each MIME type of an output, whatever the builder, and chooses later. HTML
takes the SVG (or the slider), LaTeX and EPUB the PNG, plain text the alt text.
"""

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer

# White in the drawing is the page's own background; black is `currentColor`, the text's.
FRAME = (
    '<div class="kexue-figure" style="--kexue-paper:var(--pst-color-background,#fff);'
    '--kexue-margin:auto;text-align:center">{}</div>'
)


def render(renderer: NbElementRenderer, data: MimeData) -> list[nodes.Element] | None:
    """Return the nodes of a figure made by `kexue_lib.figures`, or None for any other output."""
    about = data.output_metadata.get(data.mime_type)
    if not isinstance(about, dict) or about.get("kexue") != "figure":
        return None
    if data.mime_type in {"image/svg+xml", "text/html"}:
        # Without the class "text_html", under which the dark theme lays a light card.
        return [nodes.raw(text=FRAME.format(data.string), format="html")]
    if data.mime_type == "image/png":
        [image] = renderer.render_image(data)
        image["alt"] = about["alt"]
        return [image]
    return [nodes.paragraph(text=about["alt"], translatable=False)]
