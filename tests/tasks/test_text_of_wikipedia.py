"""The committed text of Wikipedia is what its script makes of the dump, and the only text of wiki markup."""

from __future__ import annotations

import bz2
import lzma
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from remainder.task.spec import load_task
from remainder.task.text import text_of

pytestmark = pytest.mark.needs("mwparserfromhell")

ARTICLE = """{{Infobox person|name=Nobody|born={{date|1900}}}}
[[File:Face.jpg|thumb|A [[face]] in a caption]]
'''Anna''' was a [[physicist|scholar]] of [[Prague]].<ref name="a/b">A
book.</ref> She &amp; others<ref name=x/> left.
<!-- a remark
of two lines -->
{| class="wikitable"
! Head
|-
| cell
|}
Energy is <math>E = mc^2</math>.

== Life ==
Born ''early'', see [https://example.org the page] and [[:Category:Shown]].{{citation needed}}
<gallery>
Image:One.jpg|caption of one
</gallery>

=== Youth ===
* first
* second

== See also ==
* [[Somebody]]
=== Lists ===
* [[A list]]

== External links ==
* [http://example.org link]
<references/>

== Work ==
Prose again.

[[Category:People]]
[[de:Anna]]
[[zh-min-nan:Anna]]
[[simple:Anna]]
"""

PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{id}</id>{redirect}
<revision><id>5{id}</id><text xml:space="preserve">{text}</text></revision></page>"""


def page(number: int, text: str, title: str = "T", ns: int = 0, redirect: str = "") -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return PAGE.format(id=number, text=text, title=title, ns=ns, redirect=redirect)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    pages = [
        page(10, ARTICLE, "Anna"),
        page(11, "#REDIRECT [[Anna]]", redirect='<redirect title="Anna" />'),
        page(12, "Talk about it.", "Talk:Anna", ns=1),
        page(13, "{{only|a template}}", "Empty"),
        page(14, "Short &amp; plain.", "R&amp;D"),
    ]
    content = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><sitename>W</sitename>'
        f"</siteinfo>{''.join(pages)}</mediawiki>"
    )
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(content.encode()))
    return path


@pytest.fixture
def make() -> ModuleType:
    """The script beside the text."""
    path = text_of(load_task("tiny/wiki").corpus.wheel).with_name("make.py")
    found = spec_from_file_location("make_enwiki", path)
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_articles_are_read_as_prose(dump: Path, make: ModuleType) -> None:
    documents = list(make.read_mediawiki(dump))
    assert [(document.id, document.title) for document in documents] == [
        ("page-10", "Anna"),
        ("page-14", "R&D"),
    ]
    assert documents[1].text == "Short & plain."
    assert documents[0].text == (
        "Anna was a scholar of Prague. She & others left.\n\nEnergy is .\n\nLife\n"
        "Born early, see the page and :Category:Shown.\n\nYouth\nfirst\nsecond\n\nWork\nProse again."
    )


@pytest.mark.slow
def test_the_script_makes_the_committed_text_and_its_attribution(make: ModuleType) -> None:
    """Fetches the dump, unless it is in the cache."""
    documents = list(make.read_mediawiki(make.dump()))
    assert lzma.decompress(make.TEXT.read_bytes()).decode() == make.written(documents)
    assert make.TEXT.with_name("ATTRIBUTION").read_text(encoding="utf-8") == make.attribution(documents)
    assert make.TEXT.parent.name.endswith(load_task("tiny/wiki").corpus.wheel.sha256[:12])
