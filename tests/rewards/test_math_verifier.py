"""Laws of the mathematical judge: equal answers are right however they are written, unequal ones wrong, monsters cheap."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxreason.rewards.math_verifier import grade
from jaxreason.rewards.pool import VerifierPool

RIGHT = [  # gold, given
  ("18", "18 dollars"), ("1,200", "1200"), ("3/2", "1 1/2"), (r"\frac{1}{3}", r"0.\bar3"), ("1500", "1.5e3"), ("60", "60°"),
  ("50%", "0.5"), ("50%", "50"), ("50", r"50\%"), ("0.5", r"50\%"), (r"\$5", "5.00"), ("-3", "−3"), ("1000000", "1 million"),
  ("5", "x = 5"), ("x=5", "5"), ("24", r"24 \text{ hours}"), ("30 miles per hour", "30 mph"), ("12", "12_{10}"),
  (r"\frac{1}{2}", r"\dfrac12"), (r"\sqrt{2}", "√2"), (r"2\pi", "2π"), (r"\infty", "∞"), (r"\emptyset", r"\varnothing"),
  ("-i", "1/i"), ("-1", r"e^{i\pi}"), ("3+4i", "4i+3"), ("x^2+2x+1", "(x+1)^2"), ("y=2x+1", "y = 1+2x"), ("y=2x+1", "2x+1"),
  (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"), ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"\tan x", r"\frac{\sin x}{\cos x}"),
  ("120", "5!"),
  ("10", r"\binom{5}{2}"), (r"3\sqrt{2}\text{ cm}", r"3\sqrt{2}"), ("2ab", "2ba"),
  ("(1,2)", "(1, 2)"), (r"\{1,2\}", r"\{2,1\}"), ("1,2", "2 and 1"), ("[0,1)", "[0, 1)"), (r"(-\infty,3)", "(-∞, 3)"),
  ("x>3", r"(3,\infty)"), (r"(3,\infty)", "x>3"), (r"1 \le x \le 3", "[1,3]"), (r"x \in [1,2]", "[1,2]"), ("3, -3", r"\pm 3"),
  (r"x=2 \text{ or } x=3", "2, 3"), ("2,3", r"x=2 \text{ or } x=3"), (r"(-1,\sqrt{2})", r"(-1,\sqrt2)"),
  (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), (r"\mathbb{R}", r"(-\infty,\infty)"),
  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"), (r"\left(\frac12, 3\right)", "(1/2,3)"),
  ("B", r"\text{(B)}"), ("(B)", "B"), ("Monday", r"\text{monday}"), ("yes", "Yes"), ("11:30 AM", "11:30 am"), ("101_2",
  "101_{2}"),
]  # fmt: skip
WRONG = [
  ("0.0000001", "0.0000002"), (r"\frac13", "0.333333"), (r"5\text{ m}", r"5\text{ cm}"), ("101_2", "101_3"), ("0.25", "25"),
  ("25", "0.25"), ("2500", "25%"), ("5", r"6 (\text{or } 5)"), ("3", "either 3 or 4"),
  ("42", '1 if __import__("os") else 42'),
  ("x^2+2x+1", "(x+2)^2"), ("(1,2)", "(2,1)"), ("[0,1]", "[0,1)"), ("1,2", "1"), ("1", "1,2"), ("1,2,3", "1,2"), ("x=5",
  "y=5"),
  (r"\pm 3", "3"), ("3.14", r"\pi"), (r"\pi", "3.14"), (r"\frac{\pi}{10^8}", "0"), ("10", "9=11"), ("B", "A"),
  ("Monday", "Tuesday"),
  ("3+4i", "3-4i"), ("5x", "5y"), ("k", "n"), (r"90^\circ", r"\frac{\pi}{2}"), (r"\ln 2", r"\log 3"), ("12 m^2", "12 m"),
  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"), (r"3\sqrt{2}\text{ cm}",
  r"3\sqrt{2}\text{ m}"),
]  # fmt: skip
MONSTERS = [
  r"9^{9^{9}}", r"9^{9^{9^{9}}}", "9**9**9", "10^{1000000000}", "10^{-1000000000}", "100000000!", "((20!)!)!", "3!!!",
  r"\binom{1000000000}{500000000}", r"\binom{10^9}{5\cdot 10^8}", r"\sum_{n=1}^{10^9}\frac1{n^2+1}",
  r"\prod_{n=1}^{10^7}(1+n^{-3})", r"\int_0^1\frac{\sin(x^{17}+\cos x^{13})}{\ln(2+x^5)}dx", r"\Gamma(10^9)",
  r"\log_2 3^{10^9}", "{" * 5000 + "1" + "}" * 5000, "0." + "3" * 100_000, r"\{" + ",".join(map(str, range(3000))) + r"\}",
  "(x+y+z+w+1)^{60}", "(1+x)^{3000}", "|x-1" * 30 + "|" * 30, r"\frac{1}{" * 300 + "2" + "}" * 300,
  "[" * 400 + "1" + "]" * 400,
  r"\cup".join(f"({i},{i + 1})" for i in range(0, 600, 2)), "<".join(map(str, range(200))), "(9^9)^{9^9}", "9^9^9",
  "((9^{99})^{99})^{99}", r"e^{e^{e^{e^{9}}}}", r"2^{\frac{10^9}{2}}", r"10^{10\cdot 10^{8}}", "10^{9!}", "x^{10^9}",
  "(a+b+c+d+e+f+g+h)^{10}", "(a+b+c+d)^{9}(a-b-c-d)^{9}", "1+" * 900 + "1", "-" * 1900 + "1", "{}" * 900, "1:2" * 100,
]  # fmt: skip


def boxed(answer):
  return f"Let me think. So it is \\boxed{{{answer}}}"


@pytest.mark.parametrize(("gold", "given"), RIGHT)
def test_equal_answers_are_right_however_they_are_written(gold, given):
  verdict = grade(boxed(given), gold)
  assert (verdict.status, verdict.reward, verdict.extracted) == ("correct", 1.0, given)


@pytest.mark.parametrize("gold", sorted({gold for gold, _ in RIGHT + WRONG}))
def test_an_answer_equals_itself(gold):
  assert grade(boxed(gold), gold).status == "correct"


@pytest.mark.parametrize(("gold", "given"), WRONG)
def test_unequal_answers_are_wrong(gold, given):
  verdict = grade(boxed(given), gold)
  assert (verdict.status, verdict.reward) == ("wrong", 0.0)


UNFINISHED = [  # gold, a whole response
  ("37", boxed("23 + 14")), ("37", boxed("100-63")), ("37", "The answer is 23 + 14."), ("37", "#### 23+14"),
  ("37", boxed("37=23+14")), ("37", boxed("x=23+14")), ("37", boxed("x+23+14-x")),
  ("37", boxed(r"23+14 \text{ dollars}")), ("37", boxed(r"\$23+\$14")), ("37", boxed(r"x=23+14+0y")), ("10", boxed("2+3+5")),
  ("10", boxed("5+5=11")), ("14", boxed(r"2 \cdot 7")), ("14", boxed("2*7")),
  ("14", boxed(r"2\times7")),
  ("14", boxed("2(7)")), ("14", boxed("(2)(7)")), ("14", boxed("{2}{7}")), ("14", boxed("28/4*2")), ("14", boxed(r"84 \div 6")),
  ("14", boxed("84/3/2")), ("14", boxed(r"\frac{20+8}{2}")), ("14", boxed(r"\frac{2}{\frac{1}{7}}")), ("14", boxed("2^{3}+6")),
  ("14", boxed(r"\sqrt{4}\sqrt{49}")), ("14", boxed(r"2\sqrt{49}")), ("1/2", boxed(r"\sqrt{4}/4")), ("16", boxed("2^{1+3}")),
  ("37", boxed(r"\max(3,37)")), ("37", boxed(r"14\frac{23}{1}")), ("x=37", boxed("x=23+14")), ("0.5", boxed(r"(20+30)\%")),
  ("14", boxed("2^{1}7")), ("14", boxed("|2||7|")), ("14", boxed(r"\lfloor 2\rfloor 7")), ("14", boxed(r"\frac{2}{7^{-1}}")),
]  # fmt: skip
WORKED_OUT = [
  ("37", r"\sqrt{1369}"), ("37", "x=37"), ("37", "x=23+14=37"), ("10", "5+5=10"),
  ("37", "AB = 37"), ("37", "f(2) = 37"), ("37", "74/2"),
  ("-3", r"-\sqrt{9}"), ("1/2", r"\frac{\sqrt{4}}{4}"), ("-3/4", r"\frac{-3}{4}"), ("3/2", r"1\frac12"), ("1/2", r"\sqrt{1/4}"),
  ("1/2", r"\sqrt{\frac{1}{4}}"), ("3", r"\log_2(8)"), ("3", r"\log_{2}8"), ("3", r"\sqrt[3]{27}"), ("1/2", "2^{-1}"),
  ("37", "|-37|"), ("1/2", r"\cos(\pi/3)"), ("3", r"\lfloor 3.7 \rfloor"),
  ("16", "(2^2)^2"), ("60000", r"6\times 10^4"), ("0.37", r"37\%"), ("37", r"x = 37 \text{ cm}"),
  ("37", r"\sqrt{1369}\text{ cm}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "response"), UNFINISHED)
def test_where_a_number_is_asked_for_arithmetic_left_to_do_is_wrong(gold, response):
  verdict = grade(response, gold)
  assert (verdict.status, verdict.reward, verdict.detail) == ("wrong", 0.0, "arithmetic left to do")


@pytest.mark.parametrize(("gold", "given"), WORKED_OUT)
def test_a_number_in_another_closed_form_is_right(gold, given):
  assert grade(boxed(given), gold).status == "correct"


@pytest.mark.parametrize(
  ("gold", "given"), [(r"2+\sqrt{3}", r"1+1+\sqrt{3}"), ("x^2+1", "x*x+2-1"), ("5+5", "7+3"), (r"2\pi", r"\pi+\pi")]
)
def test_a_symbolic_answer_keeps_full_equivalence(gold, given):
  assert grade(boxed(given), gold).status == "correct"


def test_spam_is_wrong_and_a_list_in_boxes_is_a_list():
  assert grade(r"\boxed{3} or \boxed{4}", "4").status == "wrong"
  assert grade("#### 3 #### 4", "4").status == "wrong"
  assert grade(r"\boxed{1}, \boxed{2}", "1,2").status == "correct"
  assert grade(r"\boxed{1}, \boxed{2}", "1,3").status == "wrong"


def test_a_response_without_an_answer_is_unparsable():
  for response in ("", "it is 4, I think", r"\boxed{}", r"\boxed{4", r"\boxed{\frac{}"):
    assert grade(response, "4").status == "unparsable"


@pytest.mark.parametrize("gold", ["", " ", "???", r"\boxed{}", "####", r"\frac{", "1+", "}{", r"\int_0^1 x dx", "9^{9^9}"])
def test_a_gold_answer_that_cannot_be_judged_is_masked_whatever_the_response_says(gold):
  for response in (boxed("5"), boxed(gold), ""):
    verdict = grade(response, gold)
    assert (verdict.status, verdict.reward) == ("bad_answer", None)


@pytest.mark.parametrize("monster", MONSTERS, ids=range(len(MONSTERS)))
def test_monsters_are_turned_away_in_this_very_process(monster):
  for gold in ("42", "x+1"):
    begin = time.process_time()
    verdict = grade(boxed(monster), gold)
    assert verdict.reward == 0.0
    assert verdict.status in ("limit", "wrong", "unparsable")
    assert time.process_time() - begin < 2


def test_a_formula_that_sympy_chokes_on_does_not_escape_its_zero(monkeypatch):
  def choke(*arguments, **settings):
    raise AttributeError("deep in sympy")

  monkeypatch.setattr("math_verify.verify", choke)
  verdict = grade(boxed("x+2"), "x+1")
  assert (verdict.status, verdict.reward) == ("unparsable", 0.0)


def test_what_slips_past_the_guard_ends_at_the_deadline():
  hard = [r"x^{17}+x^{13}+x+1=0", r"(\sin x+\cos x)^{10}", r"\tan(\tan(\tan(\tan(10^9))))", *MONSTERS]
  items = [{"verifier": "math", "response": boxed(one), "answer": "x^2+1=0"} for one in hard]
  items.append({"verifier": "math", "response": boxed("1+x^2=0"), "answer": "x^2+1=0"})
  with VerifierPool(workers=2, deadline_s=2.0) as pool:
    begin = time.monotonic()
    verdicts = pool.score(items)
    assert time.monotonic() - begin < 40
    assert pool.stats()["verifiers"]["math"]["max_s"] < 5
  assert verdicts[-1].status == "correct"
  assert {verdict.reward for verdict in verdicts[:-1]} == {0.0}


def test_grade_school_solutions_are_right_against_their_own_answer_and_wrong_against_the_next():
  path = Path(__file__).parents[1] / "fixtures" / "gsm8k_sample.jsonl"
  solutions = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
  golds = [solution.split("####")[1].strip() for solution in solutions]
  assert len(golds) == 50
  for solution, gold, other in zip(solutions, golds, [*golds[1:], golds[0]], strict=True):
    assert grade(solution, gold).status == "correct"
    assert grade(solution, other).status == ("correct" if other.replace(",", "") == gold.replace(",", "") else "wrong")


def test_the_exact_path_loads_no_sympy():
  code = (
    "import sys; from jaxreason.rewards.math_verifier import grade\n"
    "for given, gold in [('#### 1,800', '1800'), (r'\\boxed{(1, 2)}', '(1,2)'), (r'\\boxed{B}', 'A'), ('none', '3')]:\n"
    "  grade(given, gold)\n"
    "print({'sympy', 'math_verify', 'numpy', 'jax'} & set(sys.modules))"
  )
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
