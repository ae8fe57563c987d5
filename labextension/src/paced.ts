/** Does something at most once in a while; what was asked for last comes at the end of it. */
export class Paced {
  private done = -Infinity;
  private timer = 0;
  private asked: (() => void) | null = null;

  /** `every`: the shortest time between two, in milliseconds; it may be changed. */
  constructor(public every: number) {}

  ask(act: () => void, atOnce = false): void {
    clearTimeout(this.timer);
    const wait = this.done + this.every - performance.now();
    if (atOnce || wait <= 0) {
      this.done = performance.now();
      this.asked = null;
      act();
    } else {
      this.asked = act;
      this.timer = window.setTimeout(() => this.ask(act, true), wait);
    }
  }

  /** Do nothing until `goOn`. */
  hold(): void {
    clearTimeout(this.timer);
  }

  /** Do what was asked for meanwhile. */
  goOn(): void {
    if (this.asked) {
      this.ask(this.asked, true);
    }
  }
}
