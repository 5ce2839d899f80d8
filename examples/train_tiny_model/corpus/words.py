"""The vocabulary the generators draw from."""

# ruff: noqa: SIM905 - lists of words read best as text

from __future__ import annotations

ONSETS = tuple("b c d f g h j k l m n p r s t v w z br dr fl gr kr pl sh st th tr".split())
VOWELS = tuple("a e i o u a e i o ai ea ou".split())
CODAS = ("", "", "n", "r", "s", "l", "m", "k", "th", "x", "nd")

GIRLS = tuple(
    "Anna Mia Lily Rosa Ella Nora Ida Clara Lucy Emma Zoe Ada Eva Ruby Sara Jane Maya Ivy Tessa "
    "Hanna Olga Nina Vera Alice Julia Greta".split()
)
BOYS = tuple(
    "Tom Ben Max Leo Sam Jack Oscar Finn Hugo Paul Milo Noah Adam Luke Otto Theo Karl Peter Ivan "
    "Felix Simon David Henry Oliver Erik Joe".split()
)
NAMES = GIRLS + BOYS
CITIES = (
    *"Paris London Rome Berlin Madrid Oslo Vienna Lisbon Athens Dublin Prague Warsaw Helsinki "
    "Stockholm Copenhagen Tokyo Cairo Delhi Lima Havana Nairobi Sydney Boston Chicago Toronto "
    "Montreal Seattle Denver Miami Dallas Munich Hamburg Milan Naples Venice Geneva Zurich Basel "
    "Lyon Nice Porto Seville Valencia Krakow Riga Tallinn Vilnius Bergen Malmo Osaka Kyoto Seoul "
    "Beijing Shanghai Bangkok Hanoi Manila Jakarta Mumbai Tehran Baghdad Ankara Istanbul Moscow "
    "Kiev Sofia Bucharest Budapest Belgrade Zagreb Brussels Amsterdam Rotterdam Glasgow Leeds "
    "Bristol Cardiff Belfast York Austin Houston Phoenix Portland Quito Bogota Caracas Santiago "
    "Lagos Accra Dakar Tunis Algiers Rabat Nantes Toulouse Turin Dresden Leipzig".split(),
    "New York", "Los Angeles", "Cape Town", "Hong Kong", "San Francisco", "Rio de Janeiro",
)  # fmt: skip

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
COLOURS = "red blue green yellow orange purple brown black white pink grey".split()
ANIMALS = "fox rabbit bear mouse cat dog duck owl frog pony hedgehog squirrel turtle goat".split()
THINGS = (
    "ball kite drum book hat key cup bell lamp boat coat stone ring box basket map coin whistle "
    "shoe apple flute ribbon spoon".split()
)
PLACES = "forest garden village meadow valley field farm harbour".split()
HOMES = "cave hut house barn tower cottage tent castle".split()
HIDING = "box bag drawer basket cup cupboard pocket jar chest bucket".split()
FRUITS = "apples pears plums cherries grapes bananas lemons oranges".split()

COLOUR_OF = {
    "the sky": "blue", "the sea": "blue", "grass": "green", "a leaf": "green", "a frog": "green",
    "a banana": "yellow", "the sun": "yellow", "a lemon": "yellow", "snow": "white",
    "milk": "white", "a cloud": "white", "coal": "black", "the night": "black",
    "a strawberry": "red", "a tomato": "red", "blood": "red", "a cherry": "red",
    "a carrot": "orange", "a pumpkin": "orange", "chocolate": "brown", "a tree trunk": "brown",
    "a pig": "pink", "an elephant": "grey", "a crow": "black", "a swan": "white",
    "a plum": "purple", "a cucumber": "green", "an orange": "orange", "a fire engine": "red",
}  # fmt: skip
SOUND_OF = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "horse": "neigh", "lion": "roar", "bee": "buzz", "owl": "hoot", "frog": "ribbit",
    "mouse": "squeak", "snake": "hiss", "wolf": "howl", "hen": "cluck",
}  # fmt: skip
YOUNG_OF = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "duck": "duckling", "sheep": "lamb",
    "pig": "piglet", "horse": "foal", "lion": "cub", "hen": "chick", "goat": "kid",
    "frog": "tadpole", "swan": "cygnet",
}  # fmt: skip
LEGS_OF = {
    "dog": "four", "cat": "four", "cow": "four", "horse": "four", "duck": "two", "hen": "two",
    "spider": "eight", "ant": "six", "bee": "six", "snake": "zero", "fish": "zero",
    "bird": "two", "mouse": "four", "frog": "four",
}  # fmt: skip
CAPITAL_OF = {
    "France": "Paris", "England": "London", "Italy": "Rome", "Germany": "Berlin",
    "Spain": "Madrid", "Norway": "Oslo", "Austria": "Vienna", "Portugal": "Lisbon",
    "Greece": "Athens", "Ireland": "Dublin", "Poland": "Warsaw", "Finland": "Helsinki",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Japan": "Tokyo", "Egypt": "Cairo",
    "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi", "China": "Beijing", "Korea": "Seoul",
    "Thailand": "Bangkok", "Hungary": "Budapest", "Belgium": "Brussels", "Canada": "Ottawa",
    "Russia": "Moscow", "Turkey": "Ankara", "India": "Delhi",
}  # fmt: skip
OPPOSITE_OF = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "black": "white",
    "happy": "sad", "fast": "slow", "old": "young", "open": "closed", "wet": "dry",
    "hard": "soft", "high": "low", "light": "dark", "full": "empty", "early": "late",
    "left": "right", "in": "out", "yes": "no", "good": "bad", "rich": "poor", "long": "short",
    "near": "far", "loud": "quiet", "first": "last", "clean": "dirty", "strong": "weak",
}  # fmt: skip
LISTS = {
    "fruits": "an apple, a pear and a plum",
    "animals": "a dog, a cat and a horse",
    "colours": "red, blue and green",
    "days": "Monday, Tuesday and Wednesday",
    "birds": "a duck, an owl and a swan",
    "countries": "France, Italy and Spain",
    "cities": "Paris, London and Rome",
    "numbers": "one, two and three",
}
ACCENTED = (
    "café naïve über señor crème Ålesund Łódź Ærø piñata fiancée jalapeño Zürich Köln Málaga "
    "Привет Москва мир Γειά αβγ שלום 日本 東京 你好 猫 こんにちは 한국 नमस्ते สวัสดี مرحبا "
    "😀 😂 🎉 🚀 🌍 🐱 🦊 ❤ ☀ ★ → ≠ € £ ½ ° ñ ß ø ê"
).split()


def a(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
