/**
 * What a person has open in a view, for the view that takes its place.
 *
 * When a run ends its cell's widget gives way to the report that the notebook keeps: another view,
 * from another bundle. So what they have in common is the page. The new one is there when the old
 * one has left the page but has not been told so yet (the comm's end comes later): it asks.
 */

export interface Opened {
  logs: { worker: number; follow: boolean; search: string } | null;
  /** What has the focus, as `nameOf` has it; empty if nothing of the view does. */
  focus: string;
}

/** A view that may be left. */
export interface Leaving {
  readonly run: string;
  readonly root: HTMLElement;
  readonly opened: Opened;
}

declare global {
  interface Window {
    nbtrainViews?: Set<Leaving>;
  }
}

/** Let a view be asked, until `forget`. */
export function remember(view: Leaving): void {
  window.nbtrainViews ??= new Set();
  window.nbtrainViews.add(view);
}

export function forget(view: Leaving): void {
  window.nbtrainViews?.delete(view);
}

/** Return what is open in a view of this run that is no longer in the page; once. */
export function takeOver(run: string): Opened | null {
  for (const view of window.nbtrainViews ?? []) {
    if (view.run === run && !view.root.isConnected) {
      forget(view);
      return view.opened;
    }
  }
  return null;
}

/** Knows what of an element has, or had until it was taken from the page, the focus. */
export class Focus {
  private name = '';

  constructor(private readonly root: HTMLElement) {
    root.addEventListener('focusin', event => {
      this.name = nameOf(event.target as Element);
    });
    root.addEventListener('focusout', event => {
      // It goes nowhere where its element is taken away, or the window is left.
      if (event.relatedTarget) {
        this.name = '';
      }
    });
  }

  get held(): string {
    return this.isFree ? this.name : '';
  }

  /** Give it back, unless something else of the page has it by now. */
  restore(name: string): void {
    const found = Array.from(this.root.querySelectorAll<HTMLElement>('button, input, select, pre'));
    if (this.isFree) {
      found.find(element => nameOf(element) === name)?.focus({ preventScroll: true });
    }
  }

  private get isFree(): boolean {
    const active = document.activeElement;
    return !active || active === document.body || this.root.contains(active);
  }
}

function nameOf(element: Element): string {
  const label = element.getAttribute('aria-label') ?? element.textContent;
  return element.tagName === 'SELECT' ? 'SELECT' : `${element.tagName} ${label}`;
}
