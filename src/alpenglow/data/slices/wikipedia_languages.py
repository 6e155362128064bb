"""What Wikipedia's 20 languages of RedPajama call things in their markup.

A dump names its own name spaces; older names that articles still use, and the word of a redirect,
are not in it. Sources: names of the spaces for media (-2, 6) and categories (14) as each wiki's
`api.php?action=query&meta=siteinfo&siprop=namespaces|namespacealiases` gives them, as listed for
Hugging Face's `wikipedia` script (21 December 2021); redirects from MediaWiki's
`languages/messages/Messages*.php`, magic word `redirect`. English names hold in every language.
"""

from __future__ import annotations

from dataclasses import dataclass

MEDIA = ("File", "Image", "Media")
CATEGORY = ("Category",)
REDIRECT = ("#redirect",)


@dataclass(frozen=True)
class Words:
    """A language's own words, beside the English ones."""

    media: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    redirect: tuple[str, ...] = ()


LANGUAGES = {
    "bg": Words(("Медия", "Файл", "Картинка"), ("Категория",), ("#пренасочване", "#виж")),
    "ca": Words(("Fitxer", "Imatge"), ("Categoria",)),
    "cs": Words(("Soubor", "Média", "Obrázok"), ("Kategorie",), ("#přesměruj",)),
    "da": Words(("Billede", "Fil"), ("Kategori",)),
    "de": Words(("Medium", "Datei", "Bild"), ("Kategorie",), ("#weiterleitung",)),
    "en": Words(),
    "es": Words(
        ("Medio", "Archivo", "Imagen"), ("CAT", "Categoría"), ("#redirección", "#redireccion")
    ),
    "fr": Words(("Média", "Fichier"), ("Catégorie",), ("#redirection",)),
    "hr": Words(
        ("Mediji", "DT", "Slika", "F", "Datoteka"), ("CT", "KT", "Kategorija"), ("#preusmjeri",)
    ),
    "hu": Words(("Kép", "Fájl", "Média"), ("Kategória",), ("#átirányítás",)),
    "it": Words(("Immagine",), ("CAT", "Categoria"), ("#rinvia", "#rinvio", "#rimando")),
    "nl": Words(("Bestand", "Afbeelding"), ("Categorie",), ("#doorverwijzing",)),
    "pl": Words(("Plik", "Grafika"), ("Kategoria",), ("#patrz", "#przekieruj", "#tam")),
    "pt": Words(
        ("Multimédia", "Ficheiro", "Arquivo", "Imagem"), ("Categoria",), ("#redirecionamento",)
    ),
    "ro": Words(("Fişier", "Imagine", "Fișier"), ("Categorie",), ("#redirecteaza",)),
    "ru": Words(
        ("Медиа", "Файл", "Изображение"), ("Категория", "К"), ("#перенаправление", "#перенапр")
    ),
    "sl": Words(("Slika", "Datoteka"), ("Kategorija",), ("#preusmeritev",)),
    "sr": Words(
        ("Датотека", "Medij", "Slika", "Медија", "Datoteka", "Медиј", "Medija", "Слика"),
        ("Kategorija", "Категорија"),
        ("#преусмери", "#преусмјери", "#preusmeri", "#preusmjeri"),
    ),
    "sv": Words(("Fil", "Bild"), ("Kategori",), ("#omdirigering",)),
    "uk": Words(
        ("Медіа", "Медиа", "Файл", "Изображение", "Зображення"),
        ("Категория", "Категорія"),
        ("#перенаправлення", "#перенаправление", "#перенапр"),
    ),
}


def of(language: str) -> Words:
    """Return a language's words; none of its own for one that is not among the 20."""
    return LANGUAGES.get(language, Words())
