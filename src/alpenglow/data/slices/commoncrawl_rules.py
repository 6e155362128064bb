"""What `[slices.commoncrawl.rules]` of a recipe may say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """Which pages of a crawl are taken; defaults are RedPajama v1's (cc_net as it ran it)."""

    languages: tuple[str, ...] = ("en",)
    """Codes of lid.176 (ISO 639-1 mostly); empty takes every language."""
    language_score: float = 0.5
    """Least score of the language (cc_net, lang_threshold)."""
    min_characters: int = 300
    """Least length of a page's text (cc_net, min_len)."""
    main_content: bool = True
    """HTML: leave out navigation, footers, comments of readers."""
    truncated: bool = False
    """Take pages whose end the crawler cut off (WARC-Truncated)."""
    buckets: tuple[str, ...] = ("head", "middle")
    """Records of cc_net: perplexity buckets to take (RedPajama v1: not the tail)."""
    paragraphs: bool = True
    """Drop lines that the group has had already (alpenglow.data.paragraphs)."""
    paragraph_group: int = 1
    """Units whose lines are compared; 1: each with itself alone (RedPajama v1, hash_in_mem 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.language_score <= 1:
            raise ValueError(f"language_score = {self.language_score} should lie in 0 to 1")
        if self.min_characters < 1:
            raise ValueError(f"min_characters = {self.min_characters} should be 1 or more")
        if self.paragraph_group < 1:
            raise ValueError(f"paragraph_group = {self.paragraph_group} should be 1 or more")
