/** The left sidebar: all runs, running ones first. */

import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import { h, say } from './dom';
import { age, RunsModel } from './model';
import { RunSummary } from './run';
import { Sight } from './sight';

/** Ages are counted on so often, in milliseconds. */
const TICK = 30_000;

export class Sidebar extends Widget {
  private readonly rows = new Map<string, RunRow>();
  private readonly running: Group;
  private readonly finished: Group;
  private readonly hint = h('p', { class: 'nbt-hint' });
  private readonly problems = h('p', { class: 'nbt-hint nbt-problems', role: 'status' });
  private readonly title_ = h('h2', {}, 'Training runs');
  private readonly sight = new Sight(seen => this.turned(seen));
  private timer = 0;

  /** At most this many finished runs are listed. */
  most = 100;

  constructor(
    private readonly model: RunsModel,
    private readonly open: (id: string) => void
  ) {
    super();
    this.addClass('nbt-sidebar');
    this.running = new Group('Running');
    this.finished = new Group('Finished');
    this.node.append(this.title_, this.hint, this.problems);
    this.node.append(this.running.element, this.finished.element);
    this.node.setAttribute('aria-label', 'Training runs');
    this.node.setAttribute('role', 'region');
    model.changed.connect(this.refresh, this);
    this.refresh();
  }

  refresh(): void {
    if (!this.isVisible || document.hidden) {
      return; // what nobody sees costs nothing
    }
    const finished = this.model.finished.slice(0, this.most);
    this.running.show(this.model.running.map(run => this.row(run)));
    this.finished.show(finished.map(run => this.row(run)));
    const shown = new Set([...this.model.running, ...finished].map(run => run.id));
    for (const id of this.rows.keys()) {
      if (!shown.has(id)) {
        this.rows.delete(id);
      }
    }
    say(this.problems, this.model.problem ? '' : this.model.problems.join('\n'));
    say(this.hint, this.hinted(shown.size));
    this.hint.hidden = !this.hint.textContent;
  }

  protected onAfterAttach(_message: Message): void {
    this.sight.there(this.isVisible);
  }

  protected onAfterShow(_message: Message): void {
    this.sight.there(true);
  }

  protected onAfterHide(_message: Message): void {
    this.sight.there(false);
  }

  dispose(): void {
    this.sight.dispose();
    this.model.changed.disconnect(this.refresh, this);
    super.dispose();
  }

  private turned(seen: boolean): void {
    clearInterval(this.timer);
    if (seen) {
      this.refresh();
      this.timer = window.setInterval(() => this.refresh(), TICK);
    }
  }

  private hinted(count: number): string {
    if (this.model.problem) {
      return `nbtrain's server extension does not answer: ${this.model.problem}`;
    }
    if (!this.model.ready) {
      return 'Looking for runs …';
    }
    return count ? '' : 'No runs yet. A cell that begins with %%k8s_train starts one.';
  }

  private row(run: RunSummary): HTMLElement {
    let row = this.rows.get(run.id);
    if (!row) {
      row = new RunRow(run.id, this.open);
      this.rows.set(run.id, row);
    }
    row.update(run, Date.now() / 1000);
    return row.element;
  }
}

class Group {
  readonly element: HTMLElement;
  private readonly list = h('ul');
  private readonly count = h('span', { class: 'nbt-quiet' });

  constructor(name: string) {
    this.element = h('section', {}, h('h3', {}, name, ' ', this.count), this.list);
  }

  show(rows: HTMLElement[]): void {
    say(this.count, String(rows.length));
    this.element.hidden = !rows.length;
    const there = Array.from(this.list.children);
    // Left alone where nothing moved: the focus stays on its row.
    if (rows.length !== there.length || rows.some((row, i) => row !== there[i])) {
      this.list.replaceChildren(...rows);
    }
  }
}

class RunRow {
  readonly element: HTMLLIElement;
  private readonly name = h('span', { class: 'nbt-rowname' });
  private readonly age = h('span', { class: 'nbt-quiet' });
  private readonly doing = h('span');
  private readonly metric = h('span', { class: 'nbt-metric' });
  private readonly where = h('span', { class: 'nbt-quiet' });
  private readonly fill = h('span', { class: 'nbt-fill' });
  private readonly track = h('span', { class: 'nbt-track', 'aria-hidden': 'true' }, this.fill);

  constructor(id: string, open: (id: string) => void) {
    const button = h(
      'button',
      { type: 'button', class: 'nbt-row' },
      h('span', { class: 'nbt-line' }, this.name, this.age),
      h('span', { class: 'nbt-line' }, this.doing, this.metric),
      this.track,
      this.where
    );
    button.addEventListener('click', () => open(id));
    this.element = h('li', { class: 'nbt-run', 'data-run': id }, button);
  }

  update(run: RunSummary, now: number): void {
    say(this.name, run.name);
    say(this.age, age(run.created, now));
    say(this.doing, run.doing);
    this.doing.className = `nbt-doing nbt-tone-${run.tone}`;
    say(this.metric, run.metric);
    say(
      this.where,
      [...run.rest.slice(0, 1), run.backend, run.context].filter(Boolean).join(' · ')
    );
    this.track.hidden = !run.live;
    this.fill.style.transform = `scaleX(${run.part})`;
  }
}
