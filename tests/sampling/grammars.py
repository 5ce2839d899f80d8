"""Grammars of many shapes."""

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""

GRAMMARS = {
    "json": JSON,
    "one word": 'root ::= "hello"',
    "any text": "root ::= .*",
    "a class": "root ::= [a-z]+",
    "an inverse class": 'root ::= [^a-y"]+ "!"',
    "unicode": r'root ::= ("é" | [\u03b1-\u03c9] | "😀" | [\u4e00-\u9fff]){1,8}',
    "escapes": r'root ::= "\x41\u00e9\U0001F600\t\"\\" [\]\-\[\\]+',
    "repetitions": 'root ::= "a"{2} "b"{1,3} "c"{2,} "d"? ("e" | "f")*',
    "nesting": 'root ::= "(" root? ")" | "[" root* "]"',
    "lists of words": """
# names, one per line
root  ::= (name "\\n")+   # at least one
name  ::= first (" " first)?
first ::= "Ada" | "Alan" | "Al" |
    "Grace"
""",
    "something empty repeated": 'root ::= ("a"? "b"?)* "c"',
    "an ambiguous sum": 'root ::= term ("+" term)*\nterm ::= num | num "*" num\nnum ::= [0-9]+',
}
