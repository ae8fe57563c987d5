/** Whether something can be seen: what nobody sees, be it the browser's tab, costs nothing. */
export class Sight {
  private isThere = false;
  private isSeen = false;

  /** `turned` is called whenever it comes into sight or goes out of it. */
  constructor(private readonly turned: (seen: boolean) => void) {
    document.addEventListener('visibilitychange', this.look);
  }

  get seen(): boolean {
    return this.isSeen;
  }

  /** Tell whether the page shows it; whether anybody sees the page is found here. */
  there(there: boolean): void {
    this.isThere = there;
    this.look();
  }

  /** It goes out of sight for good. */
  dispose(): void {
    document.removeEventListener('visibilitychange', this.look);
    this.there(false);
  }

  private readonly look = (): void => {
    const seen = this.isThere && !document.hidden;
    if (seen !== this.isSeen) {
      this.isSeen = seen;
      this.turned(seen);
    }
  };
}
