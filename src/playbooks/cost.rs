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

/// Bounds of one expression, as multiples of the size of what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// How large a result can be.
    pub(super) growth: u64,
    /// How much can be looked at, copied or made on the way.
    pub(super) work: u64,
}

const NOTHING: Cost = Cost { growth: 1, work: 0 };

pub(super) fn cost(ast: &Ast) -> Cost {
    match ast {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } | Ast::Literal { .. } | Ast::Slice { .. } => NOTHING,
        // What a function does with it is counted there.
        Ast::Expref { ast, .. } => cost(ast),
        Ast::Not { node, .. } => Cost { growth: 1, ..cost(node) },
        Ast::ObjectValues { node, .. } | Ast::Flatten { node, .. } => passes(cost(node), 1),
        Ast::Or { lhs, rhs, .. } | Ast::And { lhs, rhs, .. } | Ast::Condition { predicate: lhs, then: rhs, .. } => {
            let (left, right) = (cost(lhs), cost(rhs));
            Cost { growth: left.growth.max(right.growth), work: left.work.saturating_add(right.work) }
        }
        Ast::Comparison { lhs, rhs, .. } => {
            let both = sum(&[cost(lhs), cost(rhs)]);
            Cost { growth: 1, work: both.work.saturating_add(1) }
        }
        Ast::Subexpr { lhs, rhs, .. } => after(cost(lhs), cost(rhs)),
        Ast::Projection { lhs, rhs, .. } => after(passes(cost(lhs), 1), cost(rhs)),
        Ast::MultiList { elements, .. } => sum(&elements.iter().map(cost).collect::<Vec<_>>()),
        Ast::MultiHash { elements, .. } => sum(&elements.iter().map(|pair| cost(&pair.value)).collect::<Vec<_>>()),
        Ast::Function { name, args, .. } => function(name, &args.iter().map(cost).collect::<Vec<_>>()),
    }
}

fn function(name: &str, args: &[Cost]) -> Cost {
    let all = sum(args);
    match name {
        // One argument is applied to each element of the other.
        "map" | "sort_by" | "min_by" | "max_by" => {
            let (one, other) = (args.first().copied().unwrap_or(NOTHING), args.get(1).copied().unwrap_or(NOTHING));
            passes(after(one, other), if name == "sort_by" { 20 } else { 1 })
        }
        "sort" => passes(all, 20),
        // Quotes and backslashes are escaped, control characters become six.
        "to_string" => Cost { growth: all.growth.saturating_mul(6), work: all.work.saturating_add(all.growth.saturating_mul(6)) },
        _ => passes(all, 1),
    }
}

/// It goes through the result as often.
fn passes(one: Cost, times: u64) -> Cost {
    Cost { work: one.work.saturating_add(one.growth.saturating_mul(times)), ..one }
}

/// The second gets what the first gives.
fn after(first: Cost, second: Cost) -> Cost {
    Cost {
        growth: first.growth.saturating_mul(second.growth),
        work: first.work.saturating_add(first.growth.saturating_mul(second.work)),
    }
}

/// All are kept.
fn sum(all: &[Cost]) -> Cost {
    let none = Cost { growth: 0, work: 0 };
    let sum = all
        .iter()
        .fold(none, |sum, one| Cost { growth: sum.growth.saturating_add(one.growth), work: sum.work.saturating_add(one.work) });
    Cost { growth: sum.growth.max(1), ..sum }
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
        assert_eq!(of("resource.severity"), NOTHING);
        assert_eq!(of("[@, @]").growth, 2);
        assert_eq!(of("[@, @] | [@, @] | [@, @]").growth, 8);
        assert_eq!(of("[@, @][] | [@, @][]").growth, 4);
        assert_eq!(of(&["[@,@]"; 100].join("|")).growth, u64::MAX);
        assert_eq!(of("a[].b"), Cost { growth: 1, work: 2 });
        assert!(of("sort_by(@, &[a, a][0])").work >= 40);
        assert_eq!(of("to_string(to_string(@))").growth, 36);
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
