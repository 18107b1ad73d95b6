//! JMESPath expressions: compiled and dry-run once, then applied to one item after the other.
//!
//! The crate does the language; here are its limits, its two gaps (`avg` of nothing, `join` without bounds), and how a result
//! becomes text. Knows nothing of documents and notifications.

use std::fmt;
use std::sync::{Arc, LazyLock};

use jmespath::ast::Ast;
use jmespath::functions::{ArgumentType, CustomFunction, Signature};
use jmespath::{Context, ErrorReason, JmespathError, Rcvar, Runtime, RuntimeError, Variable};
use serde_json::Value;

use super::cost::{Cost, DEPTH, Size, cost, depth, nodes};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES: usize = 4 * 1024;
/// Largest input, in bytes of its JSON.
pub const INPUT_BYTES: usize = 4 * 1024 * 1024;
/// Nanoseconds that one run may take, by the bound of `cost`. A run cannot be interrupted, so what may take longer is not begun.
const TIME: u64 = 1_000_000_000;
/// Largest result of one run, in bytes of its JSON, by the same bound.
const RESULT_BYTES: u64 = 128 * 1024 * 1024;
/// What every expression must be good for.
const SMALL: Size = Size { bytes: 64 * 1024, values: 1_000, elements: 250 };
/// The largest text that `join` may make, in bytes: its separator is repeated, which no bound by size covers.
const JOINED_BYTES: usize = 16 * 1024 * 1024;
/// The crate adds steps in 32 bits; more elements than this no input has.
const STEP: i32 = 1_000_000;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = Runtime::new();
    runtime.register_builtin_functions();
    let strings = || ArgumentType::TypedArray(Box::new(ArgumentType::String));
    let numbers = ArgumentType::TypedArray(Box::new(ArgumentType::Number));
    let join = Signature::new(vec![ArgumentType::String, strings()], None);
    runtime.register_function("join", Box::new(CustomFunction::new(join, Box::new(join_within_bounds))));
    let avg = Signature::new(vec![numbers], None);
    runtime.register_function("avg", Box::new(CustomFunction::new(avg, Box::new(average))));
    runtime
});

fn join_within_bounds(args: &[Rcvar], context: &mut Context<'_>) -> Result<Rcvar, JmespathError> {
    let glue = args.first().and_then(|glue| glue.as_string()).map_or("", String::as_str);
    let parts = args.get(1).and_then(|parts| parts.as_array()).map_or(&[][..], Vec::as_slice);
    let parts: Vec<&str> = parts.iter().filter_map(|part| part.as_string()).map(String::as_str).collect();
    let length = parts.iter().map(|part| part.len()).sum::<usize>().saturating_add(glue.len().saturating_mul(parts.len()));
    if length > JOINED_BYTES {
        let reason = ErrorReason::Parse(format!("`join` would make a text of {length} bytes; the limit is {JOINED_BYTES}"));
        return Err(JmespathError::from_ctx(context, reason));
    }
    Ok(Rcvar::new(Variable::String(parts.join(glue))))
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the crate's functions")]
/// Null for an empty array, as the specification says; the crate's own fails.
fn average(args: &[Rcvar], _: &mut Context<'_>) -> Result<Rcvar, JmespathError> {
    let values = args.first().and_then(|values| values.as_array()).map_or(&[][..], Vec::as_slice);
    let sum: f64 = values.iter().filter_map(|value| value.as_number()).sum();
    #[expect(clippy::cast_precision_loss, reason = "an array has far fewer than 2^52 elements")]
    let average = serde_json::Number::from_f64(sum / values.len() as f64);
    Ok(Rcvar::new(average.map_or(Variable::Null, Variable::Number)))
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    compiled: jmespath::Expression<'static>,
    cost: Cost,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text())
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

/// What expressions are applied to, converted once for all of them.
#[derive(Debug, Clone)]
pub struct Input {
    value: Rcvar,
    size: Size,
}

/// More than [`INPUT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    pub bytes: usize,
}

impl Input {
    pub fn new(value: &Value) -> Result<Self, TooLarge> {
        let mut counter = Counter(0);
        // Counting cannot fail.
        drop(serde_json::to_writer(&mut counter, value));
        let bytes = counter.0;
        if bytes > INPUT_BYTES {
            return Err(TooLarge { bytes });
        }
        let mut size = Size { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), values: 0, elements: 0 };
        count(value, &mut size);
        Ok(Self { value: variable(value), size })
    }
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Expression {
    /// # Errors
    /// One line: what is wrong, with line and column within the expression, and what to do.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it is empty; write an expression, such as `resource.id`".to_owned());
        }
        if text.len() > EXPRESSION_BYTES {
            return Err(format!("it has {} bytes; the limit is {EXPRESSION_BYTES}", text.len()));
        }
        if depth(text) > DEPTH {
            return Err(format!("it nests deeper than {DEPTH} levels; split it into several variables"));
        }
        let compiled = RUNTIME.compile(text).map_err(|error| complaint(text, &error))?;
        for node in nodes(compiled.as_ast()) {
            dry_run(text, node)?;
        }
        let cost = cost(compiled.as_ast());
        if !within(&cost, SMALL) {
            return Err("it multiplies what it is given without reason (each `[@, @]` doubles it); simplify it".to_owned());
        }
        Ok(Self { compiled, cost })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        self.compiled.as_str()
    }

    /// # Errors
    /// One line: a function got a value of a type that it does not take, or the input is too large for this expression.
    pub fn run(&self, input: &Input) -> Result<Value, String> {
        if !within(&self.cost, input.size) {
            return Err(format!("it may take longer than a second over an input of {} bytes; simplify it", input.size.bytes));
        }
        let mut context = Context::new(self.text(), &RUNTIME);
        let found = jmespath::interpret(&input.value, self.compiled.as_ast(), &mut context);
        found.map(|found| json(&found)).map_err(|error| complaint(self.text(), &error))
    }

    /// Whether a result counts as true by the rules of JMESPath: not false, null, or an empty text, array or object.
    #[must_use]
    pub fn is_true(result: &Value) -> bool {
        match result {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(members) => !members.is_empty(),
            Value::Bool(true) | Value::Number(_) => true,
        }
    }
}

fn within(cost: &Cost, input: Size) -> bool {
    cost.time(input) <= TIME && cost.size(input).bytes <= RESULT_BYTES
}

/// Functions are looked up, and their arguments counted, only when a run comes to them: each call is tried here, on nothing.
fn dry_run(text: &str, node: &Ast) -> Result<(), String> {
    match node {
        Ast::Function { name, args, offset } => {
            let nothing = |_: &Ast| Ast::Literal { offset: *offset, value: Rcvar::new(Variable::Null) };
            let call = Ast::Function { name: name.clone(), args: args.iter().map(nothing).collect(), offset: *offset };
            let mut context = Context::new(text, &RUNTIME);
            match jmespath::interpret(&Rcvar::new(Variable::Null), &call, &mut context) {
                Err(error) if is_of_call(&error) => Err(complaint(text, &error)),
                _ => Ok(()),
            }
        }
        Ast::Slice { step: 0, offset, .. } => Err(placed(text, *offset, "the step of a slice is 0")),
        Ast::Slice { step, offset, .. } if step.abs() > STEP => {
            Err(placed(text, *offset, &format!("the step of a slice is beyond {STEP}")))
        }
        _ => Ok(()),
    }
}

fn is_of_call(error: &JmespathError) -> bool {
    use RuntimeError::{NotEnoughArguments, TooManyArguments, UnknownFunction};
    matches!(&error.reason, ErrorReason::Runtime(UnknownFunction(_) | NotEnoughArguments { .. } | TooManyArguments { .. }))
}

/// The crate's error on one line, with a hint where the mistake is a known one.
fn complaint(text: &str, error: &JmespathError) -> String {
    let reason = match &error.reason {
        ErrorReason::Parse(reason) => grammar(text, error.offset, reason),
        ErrorReason::Runtime(RuntimeError::UnknownFunction(name)) => {
            let near = super::near::nearest(name, FUNCTIONS.iter().copied());
            let near =
                near.map_or_else(|| format!("JMESPath has {}", FUNCTIONS.join(", ")), |near| format!("did you mean `{near}`?"));
            format!("there is no function `{name}`; {near}")
        }
        ErrorReason::Runtime(reason) => reason.to_string(),
    };
    let mut line = placed(text, error.offset, &reason);
    if has_bare_at(text) {
        line += "; `@` is an operator: write \"@odata.type\" in double quotes, or `meta.odataType`";
    }
    if matches!(&error.reason, ErrorReason::Parse(reason) if reason.contains("found Number(")) {
        line += "; a number that is meant is written in backticks: `3`";
    }
    line
}

/// What the crate's parser says, without the names that its tokens have within it.
fn grammar(text: &str, offset: usize, reason: &str) -> String {
    let Some((wanted, found)) = reason.split_once(" -- found ") else { return reason.to_owned() };
    let expected = wanted.strip_prefix("Expected ");
    if found == "Eof" {
        let expected = expected.map(|expected| format!(": expected {expected}")).unwrap_or_default();
        return format!("the expression ends too early{expected}");
    }
    let found = token(text.get(offset..).unwrap_or_default());
    match (wanted, expected) {
        ("Unexpected nud token" | "Unexpected led token" | "Did not parse the complete expression", _) => {
            format!("unexpected `{found}`")
        }
        (_, Some(expected)) => format!("expected {expected}, found `{found}`"),
        (_, None) => format!("{wanted}, found `{found}`"),
    }
}

/// What a text begins with: a word, an operator, or one character.
fn token(text: &str) -> &str {
    let first = text.chars().next().unwrap_or_default();
    let same: fn(char) -> bool = match first {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => |c| c.is_ascii_alphanumeric() || c == '_',
        '&' | '|' | '=' | '!' | '<' | '>' => |c| "&|=!<>".contains(c),
        _ => return text.get(..first.len_utf8()).unwrap_or_default(),
    };
    text.find(|c| !same(c)).map_or(text, |end| &text[..end])
}

/// The functions of the specification.
const FUNCTIONS: [&str; 26] = [
    "abs",
    "avg",
    "ceil",
    "contains",
    "ends_with",
    "floor",
    "join",
    "keys",
    "length",
    "map",
    "max",
    "max_by",
    "merge",
    "min",
    "min_by",
    "not_null",
    "reverse",
    "sort",
    "sort_by",
    "starts_with",
    "sum",
    "to_array",
    "to_number",
    "to_string",
    "type",
    "values",
];

/// `offset` is in bytes, although the crate counts its own line and column as if it were in characters.
fn placed(text: &str, offset: usize, reason: &str) -> String {
    let before: String = text.bytes().take(offset).map(char::from).filter(|c| c.is_ascii() || *c >= '\u{c0}').collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("line {line}, column {column} of the expression: {reason}")
}

/// An `@odata.…` outside quotes.
fn has_bare_at(text: &str) -> bool {
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '@') if characters.peek().is_some_and(char::is_ascii_alphabetic) => return true,
            _ => {}
        }
    }
    false
}

fn count(value: &Value, size: &mut Size) {
    size.values += 1;
    match value {
        Value::Array(list) => {
            size.elements += u64::try_from(list.len()).unwrap_or(u64::MAX);
            for one in list {
                count(one, size);
            }
        }
        Value::Object(members) => {
            for one in members.values() {
                count(one, size);
            }
        }
        _ => {}
    }
}

fn variable(value: &Value) -> Rcvar {
    Arc::new(match value {
        Value::Null => Variable::Null,
        Value::Bool(flag) => Variable::Bool(*flag),
        Value::Number(number) => Variable::Number(number.clone()),
        Value::String(text) => Variable::String(text.clone()),
        Value::Array(list) => Variable::Array(list.iter().map(variable).collect()),
        Value::Object(members) => Variable::Object(members.iter().map(|(key, value)| (key.clone(), variable(value))).collect()),
    })
}

fn json(found: &Variable) -> Value {
    match found {
        // An expression as a value is good for functions only.
        Variable::Null | Variable::Expref(_) => Value::Null,
        Variable::Bool(flag) => Value::Bool(*flag),
        Variable::Number(number) => Value::Number(whole(number)),
        Variable::String(text) => Value::String(text.clone()),
        Variable::Array(list) => Value::Array(list.iter().map(|one| json(one)).collect()),
        Variable::Object(members) => Value::Object(members.iter().map(|(key, one)| (key.clone(), json(one))).collect()),
    }
}

/// The crate computes in floating point: `sum` of 1 and 2 is 3.0. A whole number is written without a fraction, as every other
/// implementation does; integers that are only passed on keep their 64 bits.
fn whole(number: &serde_json::Number) -> serde_json::Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT => {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
            let whole = float as i64;
            whole.into()
        }
        _ => number.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_bare_number_is_told_how_it_is_written() {
        let error = Expression::compile("length(resource.evidence) > 3").expect_err("a bare number");
        assert!(error.ends_with("a number that is meant is written in backticks: `3`"), "{error}");
        assert!(Expression::compile("length(resource.evidence) > `3`").is_ok());
    }

    fn run(text: &str, input: &Value) -> Value {
        Expression::compile(text).expect("compiles").run(&Input::new(input).expect("small")).expect("runs")
    }

    fn refused(text: &str) -> String {
        Expression::compile(text).expect_err("refused")
    }

    /// After the specification's own suite (jmespath.test), a case or two of each chapter.
    #[test]
    fn the_language_is_that_of_the_specification() {
        let people = json!({"people": [{"n": "b", "age": 30}, {"n": "a", "age": 50}, {"n": "c"}], "e": [], "s": "str", "z": 0});
        for (text, expected) in [
            ("people[0].n", json!("b")),
            ("people[-1].n", json!("c")),
            ("people[9]", Value::Null),
            ("people[*].age", json!([30, 50])),
            ("people[?age > `30`].n", json!(["a"])),
            ("people[?age].n | [0]", json!("b")),
            ("people[].[n, age]", json!([["b", 30], ["a", 50], ["c", null]])),
            ("people[:2].{name: n}", json!([{"name": "b"}, {"name": "a"}])),
            ("people[::-1].n", json!(["c", "a", "b"])),
            ("sort_by(people[?age], &age)[].n", json!(["b", "a"])),
            ("max_by(people[?age], &age).n", json!("a")),
            ("join(', ', people[].n)", json!("b, a, c")),
            ("length(people)", json!(3)),
            ("contains(s, 'tr')", json!(true)),
            ("e || s", json!("str")),
            ("z && s", json!("str")),
            ("!e", json!(true)),
            ("missing.deeper", Value::Null),
            ("sum(people[].age)", json!(80)),
            ("avg(people[].age)", json!(40)),
            ("avg(e)", Value::Null),
            ("abs(`-1.5`)", json!(1.5)),
            ("ceil(`1.2`)", json!(2)),
            ("to_number('12')", json!(12)),
            ("keys(people[0])", json!(["age", "n"])),
            ("type(people)", json!("array")),
            ("not_null(missing, s)", json!("str")),
            ("to_string(people[0])", json!("{\"age\":30,\"n\":\"b\"}")),
            ("people[*].n | sort(@)", json!(["a", "b", "c"])),
            ("map(&n, people)", json!(["b", "a", "c"])),
            ("merge({a: `1`}, {b: `2`})", json!({"a": 1, "b": 2})),
            ("&age", Value::Null),
        ] {
            assert_eq!(run(text, &people), expected, "{text}");
        }
    }

    #[test]
    fn integers_of_64_bits_come_through_whole() {
        let input = json!({"seq": 637_000_000_000_000_001_u64, "max": u64::MAX, "min": i64::MIN, "half": 0.5, "four": 4.0});
        assert_eq!(run("seq", &input).to_string(), "637000000000000001");
        assert_eq!(run("[max, min]", &input).to_string(), "[18446744073709551615,-9223372036854775808]");
        assert_eq!(run("[half, four]", &input).to_string(), "[0.5,4]");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        assert_eq!(
            refused("resource.\n  severity ="),
            "line 2, column 12 of the expression: '=' is not valid. Did you mean '=='?"
        );
        for (text, expected) in [
            ("severity ==", "column 12 of the expression: the expression ends too early"),
            ("(a", "column 3 of the expression: the expression ends too early: expected ')' to close '('"),
            ("a[0", "column 4 of the expression: the expression ends too early: expected ':', or ']'"),
            ("a == && b", "column 6 of the expression: unexpected `&&`"),
            ("'ä' ) b", "column 5 of the expression: unexpected `)`"),
            ("(a b)", "column 4 of the expression: expected ')' to close '(', found `b`"),
            ("a b_2.c", "column 3 of the expression: unexpected `b_2`"),
            ("{a, b}", "column 3 of the expression: expected ':' to follow key, found `,`"),
            ("\"a\"(b)", "column 4 of the expression: Quoted strings can't be a function name, found `(`"),
        ] {
            assert_eq!(refused(text), format!("line 1, {expected}"), "{text}");
        }
        assert_eq!(refused("'ä' ~"), "line 1, column 5 of the expression: Invalid character: ~");
        let unquoted = refused("resourceData.@odata.type");
        assert!(unquoted.ends_with("write \"@odata.type\" in double quotes, or `meta.odataType`"), "{unquoted}");
        assert!(Expression::compile("resourceData.\"@odata.type\"").is_ok());
        assert_eq!(
            refused("people[].lenght(@)"),
            "line 1, column 16 of the expression: there is no function `lenght`; did you mean `length`?"
        );
        assert!(refused("a || upper(b)").contains("JMESPath has abs, avg"), "also where no run would come");
        assert!(refused("join(',')").contains("Not enough arguments"));
        assert!(refused("sort(a, b)").contains("Too many arguments"));
        assert!(refused("a[::0]").contains("step"));
    }

    #[test]
    fn what_could_take_a_machine_down_is_refused() {
        assert!(refused(&["[@,@]"; 60].join("|")).contains("multiplies"));
        assert!(refused(&"!".repeat(4_000)).contains("nests"));
        assert!(refused(&"(".repeat(4_000)).contains("nests"));
        assert!(refused(&"a".repeat(5_000)).contains("5000 bytes"));
        assert!(refused("a[1::2147483647]").contains("step"));
        let large = json!({"a": "x".repeat(1_000_000), "b": vec!["y"; 100]});
        let join = Expression::compile("join(a, b)").expect("compiles");
        let error = join.run(&Input::new(&large).expect("small enough")).expect_err("too much");
        assert!(error.contains("`join` would make a text of 100000100 bytes"), "{error}");
        assert_eq!(Input::new(&json!("x".repeat(INPUT_BYTES))).expect_err("too large"), TooLarge { bytes: INPUT_BYTES + 2 });
        let doubled = Expression::compile(&["[@,@][]"; 9].join("|")).expect("good for small inputs");
        for large in [json!(["x".repeat(1_000_000)]), json!(vec![1; 100_000])] {
            let error = doubled.run(&Input::new(&large).expect("small enough")).expect_err("too much");
            assert!(error.contains("longer than a second"), "{error}");
        }
    }

    #[test]
    fn the_deepest_that_is_allowed_fits_a_small_stack() {
        for text in [
            format!("a{}", "[*]".repeat(DEPTH / 2)),
            format!("{}a", "!".repeat(DEPTH)),
            format!("{}a{}", "(".repeat(DEPTH), ")".repeat(DEPTH)),
            format!("a{}", ".b".repeat(DEPTH)),
            format!("{}a{}", "[".repeat(DEPTH), "]".repeat(DEPTH)),
        ] {
            let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || {
                if let Ok(expression) = Expression::compile(&text) {
                    drop(expression.run(&Input::new(&json!({"a": [[[{"b": 1}]]]})).expect("small")));
                }
            });
            thread.expect("a thread").join().expect("no overflow");
        }
    }

    #[test]
    fn truth_is_that_of_jmespath() {
        for (value, truth) in [
            (json!(null), false),
            (json!(false), false),
            (json!(""), false),
            (json!([]), false),
            (json!({}), false),
            (json!(0), true),
            (json!("false"), true),
        ] {
            assert_eq!(Expression::is_true(&value), truth, "{value}");
        }
    }

    /// But for whole numbers in floating point, which lose their fraction.
    fn same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
            }
            _ => one == other,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    const PARTS: [&str; 30] = [
        "@",
        "a",
        "[*]",
        "[]",
        "[@, @]",
        "[@, @][]",
        "{a: @, bb: a}",
        "*",
        "[*].[a, @]",
        "[*].{a: @, b: `[1, 2, 3]`}",
        "to_string(@)",
        "to_array(@)",
        "map(&[@, 'xyz'], to_array(@))",
        "[?a == b]",
        "a || @",
        "[::-1]",
        "values(merge(to_array(@)[0], {b: @}))",
        "join('--', to_array(to_string(@)))",
        "{x: a, y: b, z: a.b, w: a.a}",
        "a[*].[b, a, a.b]",
        "[?a].{x: a, y: b.a}",
        "[*].not_null(b, 'a long text')",
        "[*].to_array(b)",
        "[*].to_string(a)",
        "map(&a, to_array(@))",
        "keys(a)",
        "a && b",
        "sort_by(to_array(@), &to_string(@))",
        "[*].*[]",
        "to_array(b).[@, length(to_string(@)), 'x' == @]",
    ];

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-b@.\\[\\]*|&!(){}:,'\"`0-9=<>? -]{0,40}", input in any_json()) {
            if let Ok(expression) = Expression::compile(&text) {
                drop(expression.run(&Input::new(&input).expect("small")));
            }
        }

        #[test]
        fn no_result_is_larger_than_its_bound(parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 1..7), input in any_json()) {
            if let Ok(expression) = Expression::compile(&parts.join(" | ")) {
                let given = Input::new(&input).expect("small");
                if let Ok(found) = expression.run(&given) {
                    // What is not there is null, which may be longer than the input.
                    let most = expression.cost.size(Size { bytes: given.size.bytes + 4, ..given.size });
                    let got = Input::new(&found).expect("small").size;
                    let within = got.bytes <= most.bytes && got.values <= most.values && got.elements <= most.elements;
                    prop_assert!(within, "{}: {got:?} of {most:?}: {found}", expression.text());
                }
            }
        }

        #[test]
        fn no_call_makes_it_panic(name in prop::sample::select(&FUNCTIONS), arguments in "[ab@&`1,'\\[\\]]{0,8}", input in any_json()) {
            if let Ok(expression) = Expression::compile(&format!("{name}({arguments})")) {
                drop(expression.run(&Input::new(&input).expect("small")));
            }
        }

        #[test]
        fn a_value_that_is_passed_on_is_the_same(input in any_json()) {
            prop_assert!(same(&run("@", &input), &input));
        }
    }
}
