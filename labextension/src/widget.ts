/** The widget of a cell's output (anywidget): draws what the kernel sends. */

import css from '../style/view.css';
import { hostOf, KernelHost, Model } from './host';
import { pageServer } from './server';
import { createRunView } from './view';

export function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  addStyle();
  const kernel = new KernelHost(model);
  const view = createRunView(el, hostOf(model, kernel, pageServer()));
  const update = (): void => view.update(model.get('view'));
  model.on('change:view', update);
  update();
  model.send({ drawn: true });
  return () => {
    model.off('change:view', update);
    kernel.dispose();
    view.dispose();
  };
}

function addStyle(): void {
  if (!document.getElementById('nbtrain-view-style')) {
    const style = document.createElement('style');
    style.id = 'nbtrain-view-style';
    style.textContent = css;
    document.head.append(style);
  }
}

export default { render };
