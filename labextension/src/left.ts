/**
 * What a person had open in a view, for the view that takes its place.
 *
 * When a run ends its cell's widget gives way to the report that the notebook keeps: another view,
 * from another bundle. So what they have in common is the page.
 */

export interface Opened {
  logs: { worker: number; follow: boolean; search: string } | null;
  /** What had the focus, as `nameOf` has it; empty if nothing of the view did. */
  focus: string;
}

/** A view that comes later than this has another reason to be there, in milliseconds. */
const SOON = 3000;

declare global {
  interface Window {
    nbtrainLeft?: Map<string, { at: number; opened: Opened }>;
  }
}

export function leave(run: string, opened: Opened): void {
  window.nbtrainLeft ??= new Map();
  window.nbtrainLeft.set(run, { at: Date.now(), opened });
}

/** Return what was open in a view of this run a moment ago; once. */
export function takeOver(run: string): Opened | null {
  const left = window.nbtrainLeft?.get(run);
  window.nbtrainLeft?.delete(run);
  return left && Date.now() - left.at < SOON ? left.opened : null;
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
    const active = document.activeElement;
    return !active || active === document.body || this.root.contains(active) ? this.name : '';
  }

  restore(name: string): void {
    const found = Array.from(this.root.querySelectorAll<HTMLElement>('button, input, select, pre'));
    found.find(element => nameOf(element) === name)?.focus({ preventScroll: true });
  }
}

function nameOf(element: Element): string {
  const label = element.getAttribute('aria-label') ?? element.textContent;
  return element.tagName === 'SELECT' ? 'SELECT' : `${element.tagName} ${label}`;
}
