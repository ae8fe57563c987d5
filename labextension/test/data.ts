/** A run that trains, as the server tells of it. */

import { RunView } from '../src/run';

export const VIEW: RunView = {
  version: 1,
  id: 'digits-1',
  name: 'digits',
  backend: 'local',
  context: '',
  status: 'training',
  tone: 'busy',
  live: true,
  created: 1,
  ended: null,
  doing: 'training',
  rest: ['epoch 1/5'],
  part: 0.2,
  metric: '',
  crowd: 2,
  facts: ['2 workers'],
  workers: [
    {
      sign: '●',
      tone: 'busy',
      about: 'worker 0: training',
      rate: '620 examples/s',
      memory: '1.2 GB'
    },
    { sign: '✕', tone: 'bad', about: 'worker 1: failed', rate: '', memory: '' }
  ],
  crew: '1 training',
  speed: '',
  memory: '',
  bars: [{ name: 'epochs', part: 0.2, said: '1/5' }],
  caption: 'epoch 1',
  columns: ['now'],
  rows: [{ name: 'loss', now: '0.5', training: '', validation: '' }],
  plots: [],
  notes: [{ tone: 'warn', text: '<b>first</b>', more: 'rest' }],
  error: null,
  next: [['digits.model', 'waits']],
  attach: "nbtrain.attach('digits-1')"
};
