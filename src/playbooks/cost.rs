//! What an expression can cost at most, told from its text and its tree before it ever runs.
//!
//! A JMESPath run cannot be interrupted, so its work is bounded beforehand: how deep it nests (stack), and by how much it can
//! multiply what it is given (time and memory). `[@, @]` doubles its input, and a pipe of sixty of them would fill any machine.

use std::collections::BTreeMap;

use jmespath::Variable;
use jmespath::ast::Ast;

/// How deep brackets and operators may stack: what parser and interpreter can hold on a small thread.
pub(super) const DEPTH: usize = 250;

/// An upper bound of the depth of the tree that `text` is parsed to. Reads characters only: the parser itself recurses.
pub(super) fn depth(text: &str) -> usize {
    // Operators met so far, in each bracket that is open.
    let mut open = vec![0_usize];
    let mut deepest = 0;
    let mut quote = None;
    let mut before = ' ';
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '(' | '[' | '{') => {
                add(&mut open);
                open.push(0);
            }
            (None, ')' | ']' | '}') if open.len() > 1 => drop(open.pop()),
            (None, ',') => {
                if let Some(last) = open.last_mut() {
                    *last = 0;
                }
            }
            // The two characters of one operator count once, but each `!` and `&` nests.
            (None, '|' | '=') if c == before => {}
            (None, '.' | '|' | '&' | '!' | '<' | '>' | '=' | '*') => add(&mut open),
            _ => {}
        }
        before = c;
        deepest = deepest.max(open.iter().sum());
    }
    deepest
}

fn add(open: &mut [usize]) {
    if let Some(last) = open.last_mut() {
        *last += 1;
    }
}

/// An upper bound over an input: so much for each of its bytes, values and elements, and so much in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bound {
    bytes: u64,
    values: u64,
    elements: u64,
    once: u64,
}

/// How large a value is. Each number is the sum of those of its parts, so parts that do not overlap are never more than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Of its JSON.
    pub(super) bytes: u64,
    /// All that is in it, itself too.
    pub(super) values: u64,
    /// Of these, those that are elements of an array: so often at most a projection does its work.
    pub(super) elements: u64,
}

/// Upper bounds of what an expression gives, and of the time until it has it, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    bytes: Bound,
    values: Bound,
    elements: Bound,
    time: Bound,
}

/// A part of the input.
const PART: Cost = Cost {
    bytes: Bound { bytes: 1, values: 0, elements: 0, once: 0 },
    values: Bound { bytes: 0, values: 1, elements: 0, once: 0 },
    elements: Bound { bytes: 0, values: 0, elements: 1, once: 0 },
    time: once(STEP),
};

// Measured on a slow machine, and rounded up.
/// To look at a node of the tree, or at one value.
const STEP: u64 = 40;
/// To make an object or an array, or a member of one.
const MAKE: u64 = 80;
/// To take an element over into another array.
const COPY: u64 = 10;
/// To sort, for each element: twenty comparisons, enough for a million of them.
const SORT: u64 = 400;
/// To write JSON costs as often what it costs to look at it.
const WRITE: u64 = 4;
/// To call a function.
const CALL: u64 = 100;

/// Bytes of `null`, `false`, and the longest number.
const NULL: u64 = 4;
const TRUTH: u64 = 5;
const NUMBER: u64 = 32;
/// Of an expression as a value, for each of its nodes: bytes of the text that the crate makes of it, and nanoseconds for a copy.
const NODE: u64 = 256;

pub(super) fn cost(ast: &Ast) -> Cost {
    // The only place that calls itself, with little on the stack.
    let mut costs = Vec::new();
    for child in children(ast) {
        let child = match (ast, child) {
            // A function applies it; what it is as a value is counted there.
            (Ast::Function { .. }, Ast::Expref { ast, .. }) => ast,
            (_, child) => child,
        };
        costs.push(cost(child));
    }
    combined(ast, &costs)
}

/// From what its children cost.
fn combined(ast: &Ast, costs: &[Cost]) -> Cost {
    let (one, two) = (costs.first().copied().unwrap_or(PART), costs.get(1).copied().unwrap_or(PART));
    match ast {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } => PART,
        Ast::Slice { .. } => PART.spend(PART.elements.times(COPY)),
        Ast::Literal { value, .. } => {
            let values = values_of(value);
            Cost { values: once(values), elements: once(values), ..made(length(&value.to_string()), once(STEP)) }
        }
        // Both what it is as a value and what it gives where a function applies it.
        Ast::Expref { ast, .. } => one.with(made(size_of_tree(ast), once(size_of_tree(ast)))),
        Ast::Not { .. } => made(TRUTH, one.time.plus(once(STEP))),
        Ast::ObjectValues { .. } => members(one),
        Ast::Flatten { .. } => one.spend(one.elements.times(COPY)),
        Ast::Or { .. } => Cost { time: one.time.plus(two.time), ..one.or(two) },
        // The first only where it is null, false or empty.
        Ast::And { .. } => Cost { time: one.time.plus(two.time), ..two.or(made(TRUTH, once(0))) },
        // Where it is not met, it gives null, which the projection around it drops.
        Ast::Condition { .. } => two.spend(one.time.plus(once(STEP))),
        Ast::Comparison { .. } => {
            // As far as the smaller of the two.
            let compared = one.values.smaller(two.values).times(STEP).plus(one.bytes.smaller(two.bytes));
            made(TRUTH, one.time.plus(two.time).plus(compared))
        }
        Ast::Subexpr { .. } => then(one, two),
        Ast::Projection { .. } => each(one, two),
        Ast::MultiList { elements, .. } => {
            let made = Cost { elements: once(count(elements)), ..made_of(elements.iter().map(|_| 1)) };
            together(elements.iter().zip(costs)).with(made)
        }
        // Names of members are copied, and quoted when the result is written.
        Ast::MultiHash { elements, .. } => {
            let quoted = |key: &String| length(&Variable::String(key.clone()).to_string());
            let made = made_of(elements.iter().map(|pair| quoted(&pair.key).saturating_add(2)));
            together(elements.iter().map(|pair| &pair.value).zip(costs)).with(made)
        }
        Ast::Function { name, args, .. } => function(name, args, costs),
    }
}

fn function(name: &str, args: &[Ast], costs: &[Cost]) -> Cost {
    let arg = |index: usize| costs.get(index).copied().unwrap_or(PART);
    // One argument is applied to each element of the other.
    let (list, applied) = if name == "map" { (arg(1), arg(0)) } else { (arg(0), arg(1)) };
    let trees = args.iter().filter(|arg| matches!(arg, Ast::Expref { .. })).map(size_of_tree).fold(0, u64::saturating_add);
    let called = once(trees.saturating_add(CALL));
    // What is not there is null.
    let nulls = Cost { values: once(0), ..made(count(args).saturating_mul(NULL).saturating_add(trees), called) };
    let all = together(args.iter().zip(costs)).with(nulls);
    let seen = all.values.times(STEP).plus(all.bytes);
    let sorted = |cost: Cost| cost.elements.times(SORT).plus(cost.bytes.times(2));
    let by = |time: Bound| Cost { time: each(list, applied).time.plus(time).plus(called), ..list };
    match name {
        // What is null stays.
        "map" => {
            let one = Cost { bytes: applied.bytes.plus(once(NULL + 1)), values: applied.values.plus(once(1)), ..applied };
            each(list, one).spend(called)
        }
        "min_by" | "max_by" => by(list.elements.times(STEP)),
        "sort_by" => by(sorted(list)),
        "sort" => all.spend(sorted(all)),
        "abs" | "avg" | "ceil" | "floor" | "length" | "sum" | "to_number" | "contains" | "ends_with" | "starts_with" | "type" => {
            made(NUMBER, all.time.plus(seen))
        }
        // Quotes and backslashes are escaped once more.
        "to_string" => Cost { bytes: all.bytes.times(2).plus(once(2)), ..made(0, all.time.plus(seen.times(WRITE))) },
        "join" => {
            // How often the separator is written is known where it is in the expression; else the function itself looks.
            let glue = arg(1).elements.times(arg(0).bytes.once);
            Cost { bytes: all.bytes.plus(glue), ..made(0, all.time.plus(seen).plus(glue)) }
        }
        "keys" | "values" => members(all),
        "merge" => all.spend(all.values.times(MAKE)),
        "not_null" => Cost { time: all.time, ..costs.iter().copied().fold(made(NULL, once(0)), Cost::or) },
        "to_array" => all.with(Cost { elements: once(1), ..made(2, once(MAKE)) }),
        _ => all.spend(seen),
    }
}

/// An expression as a value is a copy of its tree.
fn size_of_tree(ast: &Ast) -> u64 {
    count(&nodes(ast)).saturating_mul(NODE)
}

/// The members of an object become elements of an array.
fn members(object: Cost) -> Cost {
    let made = object.values.times(MAKE);
    Cost { elements: object.elements.plus(object.values), bytes: object.bytes.plus(once(2)), ..object }.spend(made)
}

/// One value of so many bytes, after so long.
const fn made(bytes: u64, time: Bound) -> Cost {
    Cost { bytes: once(bytes), values: once(1), elements: once(0), time }
}

/// An object or array of as many members, each with so many bytes around it. What is not there is null, and stays.
fn made_of(members: impl Iterator<Item = u64>) -> Cost {
    members.fold(made(2, once(MAKE)), |sum, around| sum.with(made(around + NULL, once(MAKE))))
}

const fn once(once: u64) -> Bound {
    Bound { bytes: 0, values: 0, elements: 0, once }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn count<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

fn values_of(value: &Variable) -> u64 {
    match value {
        Variable::Array(list) => 1 + list.iter().map(|one| values_of(one)).sum::<u64>(),
        Variable::Object(members) => 1 + members.values().map(|one| values_of(one)).sum::<u64>(),
        _ => 1,
    }
}

impl Bound {
    fn each(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            bytes: both(self.bytes, other.bytes),
            values: both(self.values, other.values),
            elements: both(self.elements, other.elements),
            once: both(self.once, other.once),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    fn times(self, times: u64) -> Self {
        self.each(self, |one, _| one.saturating_mul(times))
    }

    /// Never less than either.
    fn larger(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    /// One of the two: the one that grows less, which is never less than the smaller one.
    fn smaller(self, other: Self) -> Self {
        let growth = |bound: Self| bound.bytes.saturating_add(bound.values).saturating_add(bound.elements);
        if growth(self) <= growth(other) { self } else { other }
    }

    /// Over what `first` gives; what comes in any case comes `times`.
    fn over(self, first: &Cost, times: Self) -> Self {
        let (bytes, values) = (first.bytes.times(self.bytes), first.values.times(self.values));
        bytes.plus(values).plus(first.elements.times(self.elements)).plus(times.times(self.once))
    }

    fn of(self, size: Size) -> u64 {
        let (bytes, values) = (self.bytes.saturating_mul(size.bytes), self.values.saturating_mul(size.values));
        let elements = self.elements.saturating_mul(size.elements);
        bytes.saturating_add(values).saturating_add(elements).saturating_add(self.once)
    }
}

impl Cost {
    /// Nanoseconds until the result is there as JSON.
    pub(super) fn time(&self, input: Size) -> u64 {
        self.time.plus(self.values.times(MAKE).plus(self.bytes).times(WRITE)).of(input)
    }

    /// Of the result.
    pub(super) fn size(&self, input: Size) -> Size {
        Size { bytes: self.bytes.of(input), values: self.values.of(input), elements: self.elements.of(input) }
    }

    fn spend(self, time: Bound) -> Self {
        Self { time: self.time.plus(time), ..self }
    }

    fn bounds(self, other: Self, both: impl Fn(Bound, Bound) -> Bound) -> Self {
        Self {
            bytes: both(self.bytes, other.bytes),
            values: both(self.values, other.values),
            elements: both(self.elements, other.elements),
            time: both(self.time, other.time),
        }
    }

    /// Both, side by side.
    fn with(self, other: Self) -> Self {
        self.bounds(other, Bound::plus)
    }

    /// One of the two, nobody knows which.
    fn or(self, other: Self) -> Self {
        self.bounds(other, Bound::larger)
    }
}

/// The second gets what the first gives.
fn then(first: Cost, second: Cost) -> Cost {
    let over = |bound: Bound| bound.over(&first, once(1));
    Cost {
        bytes: over(second.bytes),
        values: over(second.values),
        elements: over(second.elements),
        time: first.time.plus(over(second.time)),
    }
}

/// The second gets each element of what the first gives: together they are no larger than that, and what the second costs at least,
/// it costs as often as there are elements.
fn each(first: Cost, second: Cost) -> Cost {
    let over = |bound: Bound| bound.over(&first, first.elements);
    // Brackets and commas are those of the first, unless nothing else of it is left.
    let around = if second.bytes.bytes == 0 { first.elements.plus(once(2)) } else { once(2) };
    // An element that is taken out of the first is one of the result: it is not inside an element as well.
    let taken = second.elements.once.saturating_add(1).max(second.elements.elements);
    let inside = Bound { elements: taken, once: 0, ..second.elements };
    Cost {
        bytes: over(second.bytes).plus(around),
        values: over(second.values).plus(once(1)),
        elements: over(inside),
        time: first.time.plus(over(second.time)).plus(first.elements.times(COPY)).plus(once(STEP)),
    }
}

/// All of them over the same input. Those that look at different members of it see together no more than the whole.
fn together<'a>(all: impl Iterator<Item = (&'a Ast, &'a Cost)>) -> Cost {
    let mut seen = Seen::default();
    for (ast, cost) in all {
        let mut place = &mut seen;
        for name in path(ast) {
            place = place.below.entry(name).or_default();
        }
        place.own.push(*cost);
    }
    seen.cost()
}

/// What looks at one place of the input, and at the members below it.
#[derive(Default)]
struct Seen<'a> {
    own: Vec<Cost>,
    below: BTreeMap<&'a str, Seen<'a>>,
}

impl Seen<'_> {
    fn cost(&self) -> Cost {
        let nothing = Cost { values: once(0), ..made(0, once(0)) };
        // What comes in any case adds up, what grows with the input is that of the member for which it grows most.
        let apart = |sum: Bound, one: Bound| Bound { once: sum.once.saturating_add(one.once), ..sum.larger(one) };
        let below = self.below.values().map(Seen::cost).fold(nothing, |sum, one| sum.bounds(one, apart));
        self.own.iter().fold(below, |sum, one| sum.with(*one))
    }
}

/// The names of the members through which `ast` looks at its input, as far as it looks at nothing beside them.
fn path(ast: &Ast) -> Vec<&str> {
    match ast {
        Ast::Field { name, .. } => vec![name],
        Ast::Subexpr { lhs, rhs, .. } => {
            let mut names = path(lhs);
            if is_path(lhs) {
                names.extend(path(rhs));
            }
            names
        }
        Ast::Projection { lhs: node, .. } | Ast::Flatten { node, .. } | Ast::ObjectValues { node, .. } => path(node),
        _ => Vec::new(),
    }
}

/// Names of members, and nothing else.
fn is_path(ast: &Ast) -> bool {
    match ast {
        Ast::Field { .. } => true,
        Ast::Subexpr { lhs, rhs, .. } => is_path(lhs) && is_path(rhs),
        _ => false,
    }
}

/// Every node of the tree below and with `ast`.
pub(super) fn nodes(ast: &Ast) -> Vec<&Ast> {
    let mut found = vec![ast];
    let mut next = 0;
    while let Some(node) = found.get(next).copied() {
        found.extend(children(node));
        next += 1;
    }
    found
}

fn children(ast: &Ast) -> Vec<&Ast> {
    match ast {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } | Ast::Literal { .. } | Ast::Slice { .. } => Vec::new(),
        Ast::Expref { ast: one, .. }
        | Ast::Not { node: one, .. }
        | Ast::ObjectValues { node: one, .. }
        | Ast::Flatten { node: one, .. } => vec![one],
        Ast::Or { lhs, rhs, .. }
        | Ast::And { lhs, rhs, .. }
        | Ast::Comparison { lhs, rhs, .. }
        | Ast::Subexpr { lhs, rhs, .. }
        | Ast::Projection { lhs, rhs, .. }
        | Ast::Condition { predicate: lhs, then: rhs, .. } => vec![lhs, rhs],
        Ast::MultiList { elements, .. } => elements.iter().collect(),
        Ast::MultiHash { elements, .. } => elements.iter().map(|pair| &pair.value).collect(),
        Ast::Function { args, .. } => args.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Cost {
        cost(jmespath::compile(text).expect("compiles").as_ast())
    }

    const LARGE: Size = Size { bytes: 1 << 20, values: 1 << 15, elements: 1 << 12 };

    /// How many times the input the result may be, roughly.
    fn growth(text: &str) -> u64 {
        (of(text).size(LARGE).bytes + LARGE.bytes / 2) / LARGE.bytes
    }

    #[test]
    fn what_doubles_its_input_is_counted_each_time() {
        assert_eq!(of("severity"), PART);
        assert_eq!(growth("resource.severity"), 1);
        assert_eq!(growth("[@, @]"), 2);
        assert_eq!(growth("[@, @] | [@, @] | [@, @]"), 8);
        assert_eq!(growth("[@, @][] | [@, @][]"), 4);
        assert_eq!(of(&["[@,@]"; 100].join("|")).size(LARGE).bytes, u64::MAX);
        assert_eq!(growth("a[].b"), 1);
        assert_eq!(growth("severity == 'high'"), 0);
        assert!(of("[*].['a long text']").size(LARGE).bytes >= 13 * LARGE.elements, "for each element");
        assert!(of("a[].{x: b, y: c}").time(LARGE) > of("{x: b, y: c}").time(LARGE) + 2 * MAKE * LARGE.elements);
        assert!(of("sort_by(@, &a)").time(LARGE) > of("@").time(LARGE) + SORT * LARGE.elements);
        assert_eq!(growth("to_string(to_string(@))"), 4);
    }

    #[test]
    fn a_filter_and_parts_that_do_not_overlap_multiply_nothing() {
        assert_eq!(growth("[?a == 'x'] | [?b] | [?c.d > `1`] | [?e] | [?f]"), 1);
        assert_eq!(growth("a[?x].b[?y][].c[?z][].d[?w][]"), 1);
        assert_eq!(growth("{a: a, b: b.c, d: b.d, e: e[?f].g}"), 1);
        assert_eq!(growth("{a: a, b: b.c, d: b, e: a[0], f: a[1]}"), 3);
        assert_eq!(growth("sort_by(a, &[@, @][0])"), 1);
        assert_eq!(growth("a && b && c"), 1);
    }

    /// Else the look itself would take for ever.
    #[test]
    fn the_look_at_calls_in_calls_is_short() {
        for call in ["sort_by(@,", "map(&a,", "join('',", "not_null(@,", "max_by("] {
            let text = format!("{}@{}", call.repeat(100), ")".repeat(100));
            assert!(of(&text.replace("@)", "@,&a)")).time(LARGE) > 0);
        }
    }

    #[test]
    fn depth_is_of_what_nests_not_of_what_is_long() {
        assert_eq!(depth("a"), 0);
        assert_eq!(depth("a.b"), 1);
        assert_eq!(depth("{a: a.b, b: a.b, c: a.b}"), depth("{a: a.b}"));
        assert_eq!(depth("'((((((' == \"[[[\\\"[[\""), 1);
        assert!(depth(&"!".repeat(300)) >= 300);
        assert!(depth(&"(".repeat(300)) >= 300);
        assert!(depth(&"[*]".repeat(300)) >= 300);
    }
}
