/** A run in the main area: the view of the cell, and all that a cell has no room for. */

import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import { h, say } from './dom';
import { LogPanel } from './logs';
import { RunView } from './run';
import { Server } from './server';
import { Sight } from './sight';
import { bytes } from './size';
import { followAgain } from './stream';
import { createRunView, View } from './view';

const PAGES = ['Overview', 'Workers', 'Logs', 'Code and data', 'Files'] as const;

export type Page = (typeof PAGES)[number];

export class RunTab extends Widget {
  private readonly tabs = new Map<Page, HTMLButtonElement>();
  private readonly panels = new Map<Page, HTMLElement>();
  private readonly view: View;
  private readonly logs: LogPanel;
  private readonly lost = h('p', { class: 'nbt-lost', role: 'status' });
  private readonly sight = new Sight(seen => this.turned(seen));
  private abort = new AbortController();
  private latest: RunView | null = null;
  private shown: Page = 'Overview';

  constructor(
    readonly run: string,
    private readonly server: Server
  ) {
    super();
    this.addClass('nbt-tab');
    const list = h('div', { role: 'tablist', 'aria-label': 'Run', class: 'nbt-tablist' });
    this.node.append(list);
    for (const page of PAGES) {
      this.addPage(list, page);
    }
    list.addEventListener('keydown', event => this.moved(event));
    this.view = createRunView(this.panels.get('Overview')!, {
      stop: () => server.stop(run),
      remove: () => server.remove(run),
      tensorboard: () => server.tensorboard(run)
    });
    this.logs = new LogPanel((worker, offset) => server.log(run, worker, offset));
    this.panels.get('Logs')!.append(h('div', { class: 'nbt nbt-wide' }, this.logs.element));
    this.node.append(this.lost); // below the rest, which stays where it is
    this.show_('Overview');
  }

  /** Show one of the pages. */
  show_(page: Page): void {
    this.shown = page;
    for (const name of PAGES) {
      const tab = this.tabs.get(name)!;
      tab.setAttribute('aria-selected', String(name === page));
      tab.tabIndex = name === page ? 0 : -1;
      this.panels.get(name)!.hidden = name !== page;
    }
    this.logs.toggle(page === 'Logs', this.latest?.name ?? this.run);
    this.fill();
  }

  protected onAfterAttach(_message: Message): void {
    this.sight.there(this.isVisible);
  }

  protected onAfterShow(_message: Message): void {
    this.sight.there(true);
  }

  protected onBeforeHide(_message: Message): void {
    this.sight.there(false);
  }

  protected onBeforeDetach(_message: Message): void {
    this.sight.there(false);
  }

  dispose(): void {
    this.sight.dispose();
    this.view.dispose();
    this.logs.dispose();
    super.dispose();
  }

  private turned(seen: boolean): void {
    this.logs.seen(seen);
    this.abort.abort();
    if (seen) {
      this.abort = new AbortController();
      void this.follow(this.abort.signal);
    }
  }

  private follow(signal: AbortSignal): Promise<void> {
    const take = (news: RunView & { gone?: boolean }): void => {
      say(this.lost, '');
      if (news.gone) {
        this.dispose();
      } else {
        this.update_(news);
      }
    };
    const lost = (why: string): void => say(this.lost, `Connection lost, trying again: ${why}`);
    return followAgain(
      (until, news) => this.server.follow(this.run, until, data => news(data as RunView)),
      signal,
      { take, lost }
    );
  }

  private update_(view: RunView): void {
    const ended = this.latest?.live && !view.live;
    this.latest = view;
    this.title.label = view.name;
    this.view.update(view);
    this.logs.update(view.crowd, view.live);
    if (this.shown === 'Workers' || ended) {
      this.fill();
    }
  }

  private fill(): void {
    const panel = this.panels.get(this.shown)!;
    const filled: Partial<Record<Page, () => Promise<Node> | Node>> = {
      Workers: () => (this.latest ? workers(this.latest) : h('p')),
      'Code and data': async () => card(await this.server.card(this.run)),
      Files: async () => this.files()
    };
    const make = filled[this.shown];
    if (make) {
      Promise.resolve()
        .then(make)
        .catch((error: unknown) =>
          h('p', {}, error instanceof Error ? error.message : String(error))
        )
        .then(
          node => panel.replaceChildren(node),
          () => undefined
        );
    }
  }

  private async files(): Promise<Node> {
    const files = await this.server.files(this.run);
    const rows = files.map(file =>
      h(
        'tr',
        {},
        h(
          'td',
          {},
          h('a', { href: this.server.fileUrl(this.run, file.path), download: '' }, file.path)
        ),
        h('td', { class: 'nbt-number' }, bytes(file.bytes))
      )
    );
    const heads = ['file', 'size'].map(name => h('th', { scope: 'col' }, name));
    return h(
      'table',
      { class: 'nbt-list' },
      h('thead', {}, h('tr', {}, ...heads)),
      h('tbody', {}, ...rows)
    );
  }

  private addPage(list: HTMLElement, page: Page): void {
    const id = `nbt-${this.run}-${page.replace(/ /g, '-')}`;
    const tab = h(
      'button',
      { role: 'tab', type: 'button', id, 'aria-controls': `${id}-panel` },
      page
    );
    const panel = h('div', {
      role: 'tabpanel',
      id: `${id}-panel`,
      'aria-labelledby': id,
      class: 'nbt-panel',
      tabindex: 0
    });
    tab.addEventListener('click', () => this.show_(page));
    this.tabs.set(page, tab);
    this.panels.set(page, panel);
    list.append(tab);
    this.node.append(panel);
  }

  private moved(event: KeyboardEvent): void {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const at = (PAGES.indexOf(this.shown) + step + PAGES.length) % PAGES.length;
      this.show_(PAGES[at]);
      this.tabs.get(PAGES[at])!.focus();
    }
  }
}

function workers(view: RunView): Node {
  const figures = view.workers.some(worker => worker.rate || worker.memory);
  const rows = view.workers.map((worker, index) =>
    h(
      'tr',
      {},
      h('td', { class: `nbt-tone-${worker.tone}` }, worker.sign),
      h('td', { class: 'nbt-number' }, String(index)),
      h('td', {}, worker.about.replace(/^worker \d+: /, '')),
      ...(figures ? [worker.rate, worker.memory] : []).map(text =>
        h('td', { class: 'nbt-number' }, text)
      )
    )
  );
  const heads = ['', 'worker', 'what it does', ...(figures ? ['rate', 'memory'] : [])].map(name =>
    name ? h('th', { scope: 'col' }, name) : h('td')
  );
  return h(
    'table',
    { class: 'nbt nbt-list' },
    h('thead', {}, h('tr', {}, ...heads)),
    h('tbody', {}, ...rows)
  );
}

/** The cell's functions, as they were written. */
function sources(code: unknown): string {
  return typeof code === 'object' && code !== null
    ? `${Object.values(code).map(String).join('\n').trimEnd()}\n`
    : said(code);
}

function said(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2);
}

/** A model card: what is short in a list, the rest as it is. */
function card(values: Record<string, unknown>): Node {
  const list = h('dl', { class: 'nbt-card' });
  for (const [name, value] of Object.entries(values)) {
    const text = name === 'code' ? sources(value) : said(value);
    const long = text.includes('\n');
    list.append(h('dt', {}, name.replace(/_/g, ' ')));
    list.append(h('dd', {}, long ? h('pre', { tabindex: 0 }, text) : text));
  }
  return list;
}
