//! `steersman explain`, `completions`, `version`: about Steersman itself.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;
use steersman_client::codes::{self, Code};

use crate::context::{Ctx, Output};
use crate::exit::{self, Failure, Outcome};
use crate::status::Picture;
use crate::table::{Row, col, print_list, print_one};
use crate::units;

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steersman explain STM-1002\n  steersman explain no_leader\n  steersman explain")]
pub struct ExplainArgs {
    /// A code such as STM-1002, or its word such as NO_LEADER; without it, all codes
    code: Option<String>,
}

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(steersman completions bash)
  steersman completions zsh > ~/.zfunc/_steersman
  steersman completions fish > ~/.config/fish/completions/steersman.fish")]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Options of `version`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steersman version\n  steersman version --cluster")]
pub struct VersionArgs {
    /// Also ask the masters for theirs
    #[arg(long)]
    cluster: bool,
}

/// What stands behind each thousand of codes.
const FAMILIES: [(&str, &str, &str); 3] = [
    (
        "STM-1",
        "the moment's",
        "Nothing is wrong with the request. Trying again, with the same request id for a mutation, makes sense; clients \
         do so by themselves until their deadline (--timeout).",
    ),
    ("STM-2", "the caller's", "The cluster works and refused this request. Repeating it as it is changes nothing."),
    (
        "STM-3",
        "the node's",
        "A master or worker cannot go on and stopped with an exit code between 65 and 78. The others go on without it.",
    ),
];

/// Runs `explain`.
///
/// # Errors
/// When there is no such code.
pub fn explain(ctx: &Ctx, args: &ExplainArgs) -> Outcome {
    let Some(wanted) = &args.code else { return list_codes(ctx) };
    let code = find(wanted).ok_or_else(|| unknown(wanted))?;
    let (family, turn) = family(code);
    let json = json!({
        "code": code.id, "reason": code.reason, "about": code.about, "family": family, "turn": turn, "hint": code.hint,
    });
    let fields = [
        ("code", format!("{} {}", code.id, code.reason)),
        ("means", code.about.to_owned()),
        ("whose turn", format!("{family}: {turn}")),
        ("to do", code.hint.to_owned()),
    ];
    print_one(ctx, code.id, &fields, &json)
}

fn find(wanted: &str) -> Option<&'static Code> {
    let word = wanted.to_uppercase().replace('-', "_");
    let number = if wanted.len() == 4 { format!("STM-{wanted}") } else { wanted.to_owned() };
    codes::by_id(&number).or_else(|| codes::by_reason(&word))
}

fn unknown(wanted: &str) -> Failure {
    let words: Vec<&str> = codes::ALL.iter().flat_map(|code| [code.id, code.reason]).collect();
    let near = units::nearest(&wanted.to_uppercase(), &words).map(|near| format!("did you mean {near}? "));
    let hint = format!("{}see all: steersman explain", near.unwrap_or_default());
    Failure::usage(format!("there is no code {wanted:?}"), hint).exit(exit::REFUSED)
}

fn family(code: &Code) -> (&'static str, &'static str) {
    let family = FAMILIES.iter().find(|(prefix, _, _)| code.id.starts_with(prefix));
    family.map_or(("", ""), |(_, name, turn)| (*name, *turn))
}

fn list_codes(ctx: &Ctx) -> Outcome {
    let columns = [col("CODE"), col("REASON"), col("MEANS"), col("TO DO").wide()];
    let row = |code: &Code| Row {
        id: code.id.to_owned(),
        cells: vec![code.id.to_owned(), code.reason.to_owned(), code.about.to_owned(), code.hint.to_owned()],
        json: json!({"code": code.id, "reason": code.reason, "about": code.about, "hint": code.hint}),
    };
    print_list(ctx, "code", &columns, &codes::ALL.iter().map(row).collect::<Vec<_>>())
}

/// Runs `completions`.
///
/// # Errors
/// When nobody reads it any more.
pub fn completions(ctx: &Ctx, args: &CompletionsArgs, mut command: clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "steersman", &mut script);
    ctx.print(String::from_utf8_lossy(&script).trim_end())
}

/// Runs `version`.
///
/// # Errors
/// When nobody reads it any more.
pub async fn version(ctx: &Ctx, args: &VersionArgs) -> Outcome {
    let own = env!("CARGO_PKG_VERSION");
    let mut masters = Vec::new();
    if args.cluster {
        let picture = Picture::take(&ctx.client()?).await;
        masters =
            picture.infos().map(|info| (info.self_.as_ref().map_or(0, |own| own.id), info.version.clone())).collect();
    }
    if ctx.output.is_json() {
        let masters: Vec<_> = masters.iter().map(|(id, version)| json!({"id": id, "version": version})).collect();
        return ctx.print(json!({"version": own, "masters": masters}).to_string());
    }
    ctx.print(if ctx.output == Output::Id { own.to_owned() } else { format!("steersman {own}") })?;
    masters.iter().try_for_each(|(id, version)| ctx.print(format!("master {id} {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_in_every_spelling_and_belongs_to_a_family() {
        for code in codes::ALL {
            let lower = code.reason.to_lowercase();
            for spelling in
                [code.id, &code.id.to_lowercase(), &code.id[4..], code.reason, &lower, &lower.replace('_', "-")]
            {
                assert_eq!(find(spelling), Some(code), "{spelling}");
            }
            assert!(!family(code).0.is_empty() && !code.about.is_empty() && !code.hint.is_empty(), "{}", code.id);
        }
        assert!(unknown("NO_LEDER").hint.contains("NO_LEADER"));
    }
}
