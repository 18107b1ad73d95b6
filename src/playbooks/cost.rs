//! What an expression can cost at most, told from its text and its tree before it ever runs.
//!
//! A JMESPath run cannot be interrupted, so its work is bounded beforehand: how deep it nests (stack), and by how much it can
//! multiply what it is given (time and memory). `[@, @]` doubles its input, and a pipe of sixty of them would fill any machine.

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

/// Upper bounds for an input of N: the result is at most `growth` · N + `constant` large, and `work` · N + `fixed` steps lead to it.
/// N is in bytes of JSON for sizes, in values for steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    pub(super) growth: u64,
    pub(super) constant: u64,
    pub(super) work: u64,
    pub(super) fixed: u64,
}

/// A part of the input, found in one step.
const PART: Cost = Cost { growth: 1, constant: 0, work: 0, fixed: 1 };
/// `false`.
const TRUTH: u64 = 5;

pub(super) fn cost(ast: &Ast) -> Cost {
    match ast {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } => PART,
        Ast::Slice { .. } => Cost { work: 1, ..PART },
        Ast::Literal { value, .. } => Cost { constant: length(&value.to_string()), fixed: 1, ..Cost::default() },
        // What a function does with it is counted there.
        Ast::Expref { ast, .. } => cost(ast),
        Ast::Not { node, .. } => Cost { growth: 0, constant: TRUTH, ..cost(node) },
        Ast::ObjectValues { node, .. } | Ast::Flatten { node, .. } => through(cost(node), 1),
        Ast::Or { lhs, rhs, .. } | Ast::And { lhs, rhs, .. } | Ast::Condition { predicate: lhs, then: rhs, .. } => {
            let (left, right) = (cost(lhs), cost(rhs));
            let both = left.with(right);
            Cost { growth: left.growth.max(right.growth), constant: left.constant.max(right.constant), ..both }
        }
        Ast::Comparison { lhs, rhs, .. } => {
            let (left, right) = (cost(lhs), cost(rhs));
            let both = left.with(right);
            Cost {
                growth: 0,
                constant: TRUTH,
                // As far as the smaller of the two.
                work: both.work.saturating_add(left.growth.min(right.growth)),
                fixed: both.fixed.saturating_add(both.constant),
            }
        }
        Ast::Subexpr { lhs, rhs, .. } => then(cost(lhs), cost(rhs)),
        Ast::Projection { lhs, rhs, .. } => each(cost(lhs), cost(rhs)),
        Ast::MultiList { elements, .. } => {
            elements.iter().map(cost).fold(made_of(1, 2), |sum, one| sum.with(one).with(made_of(1, 1)))
        }
        Ast::MultiHash { elements, .. } => elements.iter().fold(made_of(1, 2), |sum, pair| {
            // Member names are copied, and quoted when the result is written.
            sum.with(cost(&pair.value)).with(made_of(4, length(&pair.key).saturating_add(4)))
        }),
        Ast::Function { name, args, .. } => function(name, &args.iter().map(cost).collect::<Vec<_>>()),
    }
}

fn function(name: &str, args: &[Cost]) -> Cost {
    let all = args.iter().fold(made_of(4, 16), |sum, one| sum.with(*one));
    let arg = |index: usize| args.get(index).copied().unwrap_or_default();
    match name {
        // One argument is applied to each element of the other.
        "map" => each(arg(1), arg(0)),
        "min_by" | "max_by" => each(arg(0), arg(1)),
        "sort_by" => through(each(arg(0), arg(1)), 20),
        "sort" => through(all, 20),
        "to_string" => {
            // Quotes and backslashes are escaped, control characters become six.
            let written = through(all, 6);
            Cost { growth: all.growth.saturating_mul(6), constant: all.constant.saturating_mul(6), ..written }
        }
        _ => through(all, 1),
    }
}

fn made_of(fixed: u64, constant: u64) -> Cost {
    Cost { constant, fixed, ..Cost::default() }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

impl Cost {
    /// Both, side by side.
    fn with(self, other: Self) -> Self {
        Self {
            growth: self.growth.saturating_add(other.growth),
            constant: self.constant.saturating_add(other.constant),
            work: self.work.saturating_add(other.work),
            fixed: self.fixed.saturating_add(other.fixed),
        }
    }

    /// Steps for an input of so many values; to keep the result is one for each of its values.
    pub(super) fn steps(self, values: u64) -> u64 {
        self.work.saturating_add(self.growth).saturating_mul(values).saturating_add(self.fixed)
    }

    /// Size of the result for an input of so many bytes.
    pub(super) fn size(self, bytes: u64) -> u64 {
        self.growth.saturating_mul(bytes).saturating_add(self.constant)
    }
}

/// The result is gone through as often.
fn through(one: Cost, times: u64) -> Cost {
    Cost {
        work: one.work.saturating_add(one.growth.saturating_mul(times)),
        fixed: one.fixed.saturating_add(one.constant.saturating_mul(times)).saturating_add(1),
        ..one
    }
}

/// The second gets what the first gives.
fn then(first: Cost, second: Cost) -> Cost {
    Cost {
        growth: first.growth.saturating_mul(second.growth),
        constant: first.constant.saturating_mul(second.growth).saturating_add(second.constant),
        work: first.work.saturating_add(first.growth.saturating_mul(second.work)),
        fixed: first.fixed.saturating_add(second.fixed).saturating_add(first.constant.saturating_mul(second.work)),
    }
}

/// The second gets each element of what the first gives: what it costs at least, it costs as often.
fn each(first: Cost, second: Cost) -> Cost {
    let size = second.growth.saturating_add(second.constant);
    let steps = second.work.saturating_add(second.fixed).saturating_add(1);
    Cost {
        growth: first.growth.saturating_mul(size),
        constant: first.constant.saturating_mul(size),
        work: first.work.saturating_add(first.growth.saturating_mul(steps)),
        fixed: first.fixed.saturating_add(first.constant.saturating_mul(steps)).saturating_add(1),
    }
}

/// Every node of the tree below and with `ast`.
pub(super) fn nodes(ast: &Ast) -> Vec<&Ast> {
    let mut found = vec![ast];
    let mut next = 0;
    while let Some(node) = found.get(next).copied() {
        match node {
            Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } | Ast::Literal { .. } | Ast::Slice { .. } => {}
            Ast::Expref { ast: one, .. }
            | Ast::Not { node: one, .. }
            | Ast::ObjectValues { node: one, .. }
            | Ast::Flatten { node: one, .. } => found.push(one),
            Ast::Or { lhs, rhs, .. }
            | Ast::And { lhs, rhs, .. }
            | Ast::Comparison { lhs, rhs, .. }
            | Ast::Subexpr { lhs, rhs, .. }
            | Ast::Projection { lhs, rhs, .. }
            | Ast::Condition { predicate: lhs, then: rhs, .. } => found.extend([&**lhs, &**rhs]),
            Ast::MultiList { elements, .. } => found.extend(elements),
            Ast::MultiHash { elements, .. } => found.extend(elements.iter().map(|pair| &pair.value)),
            Ast::Function { args, .. } => found.extend(args),
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Cost {
        cost(jmespath::compile(text).expect("compiles").as_ast())
    }

    #[test]
    fn what_doubles_its_input_is_counted_each_time() {
        assert_eq!(of("severity"), PART);
        assert_eq!((of("resource.severity").growth, of("resource.severity").work), (1, 0));
        assert_eq!(of("[@, @]").growth, 2);
        assert_eq!(of("[@, @] | [@, @] | [@, @]").growth, 8);
        assert_eq!(of("[@, @][] | [@, @][]").growth, 4);
        assert_eq!(of(&["[@,@]"; 100].join("|")).growth, u64::MAX);
        assert_eq!((of("a[].b").growth, of("a[].b").work), (1, 3));
        assert!(of("a[].{x: b, y: c}").work > of("{x: b, y: c}").work + 8, "for each element");
        assert_eq!(of("severity == 'high'").growth, 0);
        assert!(of("[*].['a long text']").growth >= 13, "for each element");
        assert!(of("sort_by(@, &[a, a][0])").work >= 40);
        assert!(of("to_string(to_string(@))").growth == 36);
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
