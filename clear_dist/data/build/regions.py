"""Countries, their people's adjectives and some cities, each in one of ``person.GROUPS``.

By convention: North Africa and Turkey go with the Middle East, the Caucasus with Europe, Central Asia with East Asia,
countries of settlers with the group that founded them. What follows from the last rule alone is not sure (``MIXED``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, cast

from clear_dist.data.build.person import Group

# Of every group: country|other names/adjectives/cities; commas inside, lines break anywhere.
_TABLE: Final = """
african:
  Africa|/African, Sub-Saharan African/; Angola|/Angolan/Luanda; Benin|/Beninese/Cotonou, Porto-Novo;
  Botswana|/Botswanan, Motswana/Gaborone; Burkina Faso|/Burkinabe/Ouagadougou; Burundi|/Burundian/Bujumbura;
  Cameroon|/Cameroonian/Yaoundé, Douala; Cape Verde|Cabo Verde/Cape Verdean/Praia; Chad|/Chadian/N'Djamena;
  Congo|Democratic Republic of the Congo, DR Congo/Congolese/Kinshasa, Brazzaville, Lubumbashi; Djibouti|/Djiboutian/;
  Eritrea|/Eritrean/Asmara; Eswatini|Swaziland/Swazi/Mbabane; Ethiopia|/Ethiopian/Addis Ababa;
  Gabon|/Gabonese/Libreville; Gambia|The Gambia/Gambian/Banjul; Ghana|/Ghanaian/Accra, Kumasi;
  Guinea|/Guinean/Conakry; Guinea-Bissau|/Bissau-Guinean/Bissau; Ivory Coast|Côte d'Ivoire, Cote
  d'Ivoire/Ivorian/Abidjan, Yamoussoukro; Kenya|/Kenyan/Nairobi, Mombasa, Kisumu; Lesotho|/Basotho/Maseru;
  Liberia|/Liberian/Monrovia; Madagascar|/Malagasy/Antananarivo; Malawi|/Malawian/Lilongwe, Blantyre;
  Mali|/Malian/Bamako, Timbuktu; Mauritania|/Mauritanian/Nouakchott; Mauritius|/Mauritian/Port Louis;
  Mozambique|/Mozambican/Maputo; Namibia|/Namibian/Windhoek; Niger|/Nigerien/Niamey; Nigeria|/Nigerian, Yoruba, Igbo,
  Hausa/Lagos, Abuja, Ibadan, Kano, Enugu; Rwanda|/Rwandan/Kigali; Senegal|/Senegalese/Dakar;
  Seychelles|/Seychellois/; Sierra Leone|/Sierra Leonean/Freetown; Somalia|/Somali, Somalian/Mogadishu; South
  Africa|/South African, Zulu, Xhosa/Johannesburg, Cape Town, Durban, Pretoria, Soweto; South Sudan|/South
  Sudanese/Juba; Tanzania|/Tanzanian/Dar es Salaam, Dodoma, Zanzibar, Arusha; Togo|/Togolese/Lomé;
  Uganda|/Ugandan/Kampala; Zambia|/Zambian/Lusaka; Zimbabwe|/Zimbabwean/Harare, Bulawayo
east_asian:
  China|People's Republic of China/Chinese/Beijing, Shanghai, Guangzhou, Shenzhen, Chengdu, Nanjing, Wuhan, Xi'an,
  Hangzhou, Tianjin; Hong Kong|/Hongkonger, Cantonese/; Macau|Macao/Macanese/; Taiwan|/Taiwanese/Taipei, Kaohsiung,
  Tainan; Japan|/Japanese/Tokyo, Osaka, Kyoto, Nagoya, Yokohama, Sapporo, Hiroshima, Fukuoka, Kobe, Nara; South
  Korea|Korea, Republic of Korea/South Korean, Korean/Seoul, Busan, Incheon, Daegu; North Korea|/North
  Korean/Pyongyang; Mongolia|/Mongolian/Ulaanbaatar, Ulan Bator; Kazakhstan|/Kazakh, Kazakhstani/Astana, Almaty,
  Nur-Sultan; Kyrgyzstan|/Kyrgyz/Bishkek; Tajikistan|/Tajik/Dushanbe; Turkmenistan|/Turkmen/Ashgabat;
  Uzbekistan|/Uzbek/Tashkent, Samarkand
southeast_asian:
  Brunei|/Bruneian/; Cambodia|/Cambodian, Khmer/Phnom Penh, Siem Reap; East Timor|Timor-Leste/Timorese/Dili;
  Indonesia|/Indonesian, Javanese, Balinese/Jakarta, Surabaya, Bandung, Bali, Yogyakarta; Laos|/Lao,
  Laotian/Vientiane; Malaysia|/Malaysian, Malay/Kuala Lumpur, George Town, Penang; Myanmar|Burma/Burmese/Yangon,
  Rangoon, Mandalay, Naypyidaw; Philippines|The Philippines/Filipino, Filipina, Philippine/Manila, Quezon City, Cebu
  City, Davao; Singapore|/Singaporean/Singapore City; Thailand|/Thai/Bangkok, Chiang Mai, Phuket; Vietnam|Viet
  Nam/Vietnamese/Hanoi, Ho Chi Minh City, Saigon, Da Nang, Hue
south_asian:
  Afghanistan|/Afghan/Kabul, Kandahar, Herat; Bangladesh|/Bangladeshi, Bengali/Dhaka, Chittagong;
  Bhutan|/Bhutanese/Thimphu; India|/Indian, Punjabi, Tamil, Gujarati/Mumbai, Bombay, Delhi, New Delhi, Kolkata,
  Calcutta, Chennai, Bangalore, Bengaluru, Hyderabad, Jaipur, Pune; Maldives|/Maldivian/Malé; Nepal|/Nepali,
  Nepalese/Kathmandu, Pokhara; Pakistan|/Pakistani/Karachi, Lahore, Islamabad, Peshawar; Sri Lanka|/Sri Lankan,
  Sinhalese/Colombo, Kandy
middle_eastern:
  Algeria|/Algerian/Algiers, Oran; Bahrain|/Bahraini/Manama; Egypt|/Egyptian/Cairo, Alexandria, Luxor, Giza;
  Iran|Persia/Iranian, Persian/Tehran, Isfahan, Shiraz, Tabriz; Iraq|/Iraqi/Baghdad, Basra, Mosul;
  Israel|/Israeli/Jerusalem, Tel Aviv, Haifa; Jordan|/Jordanian/Amman; Kuwait|/Kuwaiti/Kuwait City;
  Lebanon|/Lebanese/Beirut, Tripoli; Libya|/Libyan/Benghazi; Morocco|/Moroccan/Casablanca, Rabat, Marrakesh,
  Marrakech, Fez, Tangier; Oman|/Omani/Muscat; Palestine|/Palestinian/Gaza, Ramallah; Qatar|/Qatari/Doha; Saudi
  Arabia|/Saudi Arabian, Saudi, Arabian, Arab, Arabic/Riyadh, Jeddah, Mecca, Medina; Sudan|/Sudanese/Khartoum;
  Syria|/Syrian/Damascus, Aleppo; Tunisia|/Tunisian/Tunis; Turkey|Türkiye/Turkish/Istanbul, Ankara, Izmir; United Arab
  Emirates|UAE/Emirati/Dubai, Abu Dhabi, Sharjah; Yemen|/Yemeni/Sana'a, Sanaa, Aden; Middle East|/Middle Eastern,
  Kurdish/
latin_american:
  Argentina|/Argentine, Argentinian, Argentinean/Buenos Aires, Córdoba, Rosario; Bolivia|/Bolivian/La Paz, Sucre;
  Brazil|/Brazilian/São Paulo, Rio de Janeiro, Brasília, Salvador, Recife; Chile|/Chilean/Santiago, Valparaíso,
  Concepción; Colombia|/Colombian/Bogotá, Medellín, Cali, Cartagena; Costa Rica|/Costa Rican/San José;
  Cuba|/Cuban/Havana; Dominican Republic|/Dominican/Santo Domingo; Ecuador|/Ecuadorian/Quito, Guayaquil; El
  Salvador|/Salvadoran/San Salvador; Guatemala|/Guatemalan/Guatemala City; Guyana|/Guyanese/;
  Haiti|/Haitian/Port-au-Prince; Honduras|/Honduran/Tegucigalpa; Jamaica|/Jamaican/Kingston; Mexico|/Mexican/Mexico
  City, Guadalajara, Monterrey, Oaxaca, Puebla; Nicaragua|/Nicaraguan/Managua; Panama|/Panamanian/Panama City;
  Paraguay|/Paraguayan/Asunción; Peru|/Peruvian/Lima, Cusco; Puerto Rico|/Puerto Rican/San Juan; Trinidad and
  Tobago|/Trinidadian/Port of Spain; Barbados|/Barbadian/Bridgetown; Bahamas|The Bahamas/Bahamian/Nassau;
  Uruguay|/Uruguayan/Montevideo; Venezuela|/Venezuelan/Caracas, Maracaibo; Suriname|/Surinamese/Paramaribo;
  Belize|/Belizean/; Latin America|/Latin American, Latino, Latina, Hispanic/
pacific:
  Fiji|/Fijian/Suva; Samoa|/Samoan/Apia; Tonga|/Tongan/; Papua New Guinea|/Papua New Guinean/Port Moresby;
  Vanuatu|/Ni-Vanuatu/Port Vila; Solomon Islands|/Solomon Islander/Honiara; Kiribati|/I-Kiribati/;
  Micronesia|/Micronesian/; Polynesia|/Polynesian, Maori, Māori, Hawaiian, Tahitian/Papeete; Palau|/Palauan/
european:
  Albania|/Albanian/Tirana; Armenia|/Armenian/Yerevan; Austria|/Austrian/Vienna, Salzburg, Graz, Innsbruck;
  Azerbaijan|/Azerbaijani/Baku; Belarus|/Belarusian/Minsk; Belgium|/Belgian, Flemish/Brussels, Antwerp, Ghent, Bruges;
  Bosnia|Bosnia and Herzegovina/Bosnian/Sarajevo; Bulgaria|/Bulgarian/Sofia, Plovdiv; Croatia|/Croatian/Zagreb, Split,
  Dubrovnik; Cyprus|/Cypriot/Nicosia; Czech Republic|Czechia/Czech/Prague, Brno; Denmark|/Danish/Copenhagen, Aarhus,
  Odense; Estonia|/Estonian/Tallinn; Finland|/Finnish/Helsinki, Turku, Tampere; France|/French/Paris, Lyon, Marseille,
  Nice, Bordeaux, Toulouse, Strasbourg; Georgia|/Georgian/Tbilisi, Batumi; Germany|/German/Berlin, Munich, Hamburg,
  Frankfurt, Cologne, Leipzig, Dresden, Stuttgart; Greece|/Greek/Athens, Thessaloniki; Hungary|/Hungarian/Budapest;
  Iceland|/Icelandic/Reykjavik, Reykjavík; Ireland|/Irish/Dublin, Cork, Galway, Belfast; Italy|/Italian,
  Sicilian/Rome, Milan, Florence, Venice, Naples, Turin, Bologna; Kosovo|/Kosovar/Pristina; Latvia|/Latvian/Riga;
  Lithuania|/Lithuanian/Vilnius, Kaunas; Luxembourg|/Luxembourgish/Luxembourg City; Malta|/Maltese/Valletta;
  Moldova|/Moldovan/Chișinău; Monaco|/Monegasque/; Montenegro|/Montenegrin/Podgorica; Netherlands|The Netherlands,
  Holland/Dutch/Amsterdam, Rotterdam, The Hague, Utrecht; North Macedonia|Macedonia/Macedonian/Skopje;
  Norway|/Norwegian/Oslo, Bergen, Trondheim; Poland|/Polish/Warsaw, Kraków, Krakow, Gdańsk;
  Portugal|/Portuguese/Lisbon, Porto; Romania|/Romanian/Bucharest, Cluj-Napoca; Russia|Russian Federation, Soviet
  Union/Russian, Soviet/Moscow, Saint Petersburg, St. Petersburg, Leningrad; Serbia|/Serbian/Belgrade;
  Slovakia|/Slovak/Bratislava; Slovenia|/Slovenian, Slovene/Ljubljana; Spain|/Spanish, Catalan, Basque/Madrid,
  Barcelona, Seville, Valencia, Granada; Sweden|/Swedish/Stockholm, Gothenburg, Malmö; Switzerland|/Swiss/Zurich,
  Zürich, Geneva, Basel, Bern; Ukraine|/Ukrainian/Kyiv, Kiev, Lviv, Odessa; United Kingdom|UK, U.K., Great Britain,
  Britain, England, Scotland, Wales, Northern Ireland/British, English, Scottish, Welsh/London, Manchester, Edinburgh,
  Glasgow, Liverpool, Oxford, Cambridge, Birmingham, Bristol, Cardiff; United States|USA, U.S.A., US, U.S., United
  States of America, America/American/New York City, New York, Los Angeles, Chicago, San Francisco, Boston, Seattle,
  Houston, New Orleans, Philadelphia, Washington, Miami, Dallas, Atlanta, Detroit, Denver, Portland, Texas,
  California, Hawaii; Canada|/Canadian/Toronto, Montreal, Montréal, Vancouver, Ottawa, Calgary, Quebec City;
  Australia|/Australian/Sydney, Melbourne, Brisbane, Perth, Adelaide, Canberra; New Zealand|/New Zealander,
  Kiwi/Auckland, Wellington, Christchurch; Scandinavia|/Scandinavian, Nordic/
"""
MIXED: Final = frozenset(["United States", "Canada", "Australia", "New Zealand", "South Africa", "Singapore"])


@dataclass(frozen=True, slots=True)
class Place:
    """kind: ``country``, ``adjective`` or ``city``."""

    country: str
    group: Group
    kind: str


def _entries() -> Iterator[tuple[Group, str]]:
    for part in re.split(r"\n(?=\w+:\n)", _TABLE.strip()):
        group, _, rest = part.partition(":\n")
        for entry in " ".join(rest.split()).split("; "):
            yield cast(Group, group), entry


@cache
def places() -> dict[str, Place]:
    """Plain spelling (``plain``) -> what it names. A word that names a country and a city is the country."""
    cities: dict[str, Place] = {}
    others: dict[str, Place] = {}
    for group, entry in _entries():
        country, _, rest = entry.partition("|")
        names, adjectives, towns = (
            [name.strip() for name in part.split(",") if name.strip()] for part in rest.split("/")
        )
        for kind, table, spelled in (
            ("city", cities, towns),
            ("adjective", others, adjectives),
            ("country", others, [country, *names]),
        ):
            for name in spelled:
                table.setdefault(plain(name), Place(country, group, kind))
    return {**cities, **others}


def plain(name: str) -> str:
    """Lower case, without accents and full stops."""
    split = unicodedata.normalize("NFKD", name.replace("’", "'"))
    return "".join(c for c in split if not unicodedata.combining(c) and c != ".").casefold().strip()


def look_up(name: str) -> Place | None:
    """What a place's name stands for: of ``Lagos, Nigeria`` the country, of an unknown town's the last part known."""
    parts = [part for part in re.split(r"\s*,\s*", name) if part]
    for wanted in ("country", "city"):
        for part in reversed(parts):
            place = places().get(plain(part)) or places().get(plain(re.sub(r"^[Tt]he ", "", part)))
            if place is not None and place.kind == wanted:
                return place
    return None


def origin(adjective: str) -> Place | None:
    """``Danish`` -> Denmark."""
    place = places().get(plain(adjective))
    return place if place is not None and place.kind == "adjective" else None
