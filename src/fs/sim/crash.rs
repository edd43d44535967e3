//! The states after a power cut or the death of the process, at one point of a history.
//!
//! Everything that does not depend on the choices is computed once per point, so that a state costs
//! only a few clones of shared pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chooser::Chooser;
use super::model::{Model, Names, Node, NodeId, PageState, page_count};
use super::page::{self, SimPage, Tears};
use super::settings::Settings;
use super::{Position, SimDisk};
use crate::mem::PAGE_SIZE;

/// A page whose content on the platter is not certain.
#[derive(Debug)]
pub(super) struct Uncertain {
    at: usize,
    /// The intact contents, first the durable one and last the newest, then the torn ones.
    contents: Vec<SimPage>,
    /// The number of intact contents.
    whole: usize,
}

/// The possible sizes and contents of a file.
#[derive(Debug)]
struct Choices {
    sizes: Vec<u64>,
    /// The uncertain pages, in the order of the file.
    pages: Vec<Uncertain>,
}

/// One point of a history, prepared for many states after it.
#[derive(Debug)]
pub struct CrashPoint {
    position: Position,
    model: Model,
    choices: BTreeMap<NodeId, Choices>,
    tears: Tears,
    settings: Settings,
}

impl CrashPoint {
    pub(super) fn new(position: Position, model: Model, tears: Tears, settings: Settings) -> Self {
        let choices = model.nodes.iter().map(|(id, node)| (*id, Choices::of(node, tears))).collect();
        Self { position, model, choices, tears, settings }
    }

    /// Returns the position in the history.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns true if a power cut here can leave only one state.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.model.changes.is_empty()
            && self.choices.values().all(|choices| choices.sizes.len() == 1 && choices.pages.is_empty())
    }

    /// Returns the machine after a power cut at this point, in the state that `chooser` decides. It
    /// has a new boot id and no held locks, and its cache holds exactly the platter's contents.
    pub fn cut_power(&self, chooser: &mut dyn Chooser) -> SimDisk {
        let names = self.choose_names(chooser);
        let mut nodes = BTreeMap::new();
        for id in names.values() {
            nodes.entry(*id).or_insert_with(|| self.choose_node(*id, chooser));
        }
        let durable_names = names.clone();
        let model = Model { made: self.model.made, nodes, names, durable_names, changes: Vec::new() };
        SimDisk::with_model(model, self.settings.after_power_cut(self.position.0))
    }

    /// Returns the machine after the death of the process at this point. It has the old boot id, no
    /// held locks, and the cache as it was. Unsynced data stays uncertain.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let mut model = self.model.clone();
        model.forget_unreachable();
        SimDisk::with_model(model, self.settings.after_kill(self.position.0))
    }

    /// Chooses any subset of the changes that are not durable. One rule applies: a change that
    /// reached the platter includes all earlier changes to its names.
    fn choose_names(&self, chooser: &mut dyn Chooser) -> Names {
        let mut names = self.model.durable_names.clone();
        let changes = &self.model.changes;
        if changes.is_empty() {
            return names;
        }
        let mut kept = vec![false; changes.len()];
        for (i, change) in changes.iter().enumerate().rev() {
            let needed = changes[i + 1..]
                .iter()
                .zip(&kept[i + 1..])
                .any(|(later, kept)| *kept && later.names().iter().any(|name| change.names().contains(name)));
            kept[i] = needed || chooser.choose(2) == 1;
        }
        for (change, _) in changes.iter().zip(kept).filter(|(_, kept)| *kept) {
            change.apply(&mut names);
        }
        names
    }

    fn choose_node(&self, id: NodeId, chooser: &mut dyn Chooser) -> Node {
        let (node, choices) = (self.model.node(id), &self.choices[&id]);
        let size = choices.sizes[chooser.choose(choices.sizes.len())];
        let mut uncertain = choices.pages.iter().peekable();
        let mut pages = Vec::with_capacity(page_count(size));
        for (at, page) in node.pages.iter().take(page_count(size)).enumerate() {
            let content = match uncertain.next_if(|uncertain| uncertain.at == at) {
                Some(uncertain) => uncertain.choose(self.tears, chooser),
                None => Arc::clone(&page.durable),
            };
            pages.push(PageState::clean(content, page.reserved));
        }
        let within = usize::try_from(size % PAGE_SIZE as u64).expect("less than a page");
        if let Some(last) = pages.last_mut().filter(|_| within > 0) {
            *last = PageState::clean(page::cut(&last.cached, within), last.reserved);
        }
        Node { size, durable_size: size, pages, ..Node::default() }
    }
}

impl Choices {
    fn of(node: &Node, tears: Tears) -> Self {
        let mut sizes = vec![node.durable_size];
        for &size in &node.sizes {
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        let pages = node.pages.iter().enumerate().filter_map(|(at, page)| Uncertain::of(at, page, tears));
        Self { sizes, pages: pages.collect() }
    }
}

impl Uncertain {
    /// Returns the possible contents of a page on the platter; `None` if only one is possible.
    pub(super) fn of(at: usize, page: &PageState, tears: Tears) -> Option<Self> {
        let mut contents = vec![Arc::clone(&page.durable)];
        for version in &page.versions {
            push_new(&mut contents, version);
        }
        let whole = contents.len();
        for newer in 1..whole {
            for older in [0, newer - 1] {
                for torn in page::mixes(&contents[older], &contents[newer], tears) {
                    push_new(&mut contents, &torn);
                }
            }
        }
        (whole > 1).then_some(Self { at, contents, whole })
    }

    /// Returns the chosen content.
    pub(super) fn choose(&self, tears: Tears, chooser: &mut dyn Chooser) -> SimPage {
        if tears != Tears::Any {
            return Arc::clone(&self.contents[chooser.choose(self.contents.len())]);
        }
        // One answer beyond the intact contents stands for a torn page.
        let answer = chooser.choose(self.whole + 1);
        if answer < self.whole {
            return Arc::clone(&self.contents[answer]);
        }
        let newer = 1 + chooser.choose(self.whole - 1);
        let older = chooser.choose(newer);
        page::chosen_mix(&self.contents[older], &self.contents[newer], chooser)
    }
}

/// Adds a content unless it is listed: an equal state would be checked twice.
fn push_new(contents: &mut Vec<SimPage>, content: &SimPage) {
    if !contents.iter().any(|other| page::same(other, content)) {
        contents.push(Arc::clone(content));
    }
}
