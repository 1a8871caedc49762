;;; emacs.el --- opens a manifest with mistakes and does what a person would -*- lexical-binding: t -*-
;; Fails with the first thing that is not as it should be; waits for conditions, never for time.

(require 'eglot)
(require 'cl-lib)

(defvar checks 0)
(defun check (so what)
  (unless so (message "not so: %s" what) (kill-emacs 1))
  (cl-incf checks))
(defun soon (what condition)
  (let ((limit (+ (float-time) 15)))
    (while (and (not (funcall condition)) (< (float-time) limit))
      (accept-process-output nil 0.05))
    (check (funcall condition) what)))

(with-temp-file "pdev.yaml"
  (insert "pdev: 1
app: emacs
services:
  web:
    prot: 8080
    health: none
    process: { command: [sleep, \"1000\"] }
  api:
    health: none
    needs: [web]
    process: { command: [sleep, \"1001\"] }
"))
(find-file "pdev.yaml")
(check (eq major-mode 'pdev-mode) "the mode is pdev-mode")
;; A hook of post-command-hook connects; in batch nobody gives commands.
(unless (eglot-managed-p) (apply #'eglot (eglot--guess-contact)))
(soon "eglot is connected" #'eglot-managed-p)
(defun findings () (mapconcat #'flymake-diagnostic-text (flymake-diagnostics) "\n"))
(flymake-start)
(soon "the misspelt key is told" (lambda () (string-match-p "port" (findings))))
(goto-char (point-min))
(search-forward "prot")
(backward-char 2)
(let ((actions (eglot-code-actions (point) (point) "quickfix")))
  (check actions "there is a quick fix")
  (eglot-execute (eglot-current-server)
                 (or (cl-find-if (lambda (action) (eq t (plist-get action :isPreferred))) actions)
                     (check nil "one of the fixes is preferred"))))
(check (string-match-p "^    port: 8080$" (buffer-string)) "the fix is applied")
;; Changes are told by an idle timer, and a batch is never idle.
(eglot--signal-textDocument/didChange)
(soon "the finding goes" (lambda () (not (string-match-p "prot" (findings)))))
(goto-char (point-min))
(search-forward "  web")
(backward-char 1)
(cl-letf (((symbol-function 'y-or-n-p) (lambda (&rest _) t)))
  (eglot-rename "shop"))
(check (string-match-p "needs: \\[shop\\]" (buffer-string)) "rename reaches every mention")
(goto-char (point-min))
(search-forward "port")
(let ((hover (jsonrpc-request (eglot-current-server) :textDocument/hover (eglot--TextDocumentPositionParams))))
  (check (string-match-p "port" (format "%S" hover)) "hover tells about the port"))
(let ((answer (progn (goto-char (point-max)) (insert "  ")
                     (jsonrpc-request (eglot-current-server) :textDocument/completion (eglot--CompletionParams)))))
  (check (> (length (if (vectorp answer) answer (plist-get answer :items))) 0) "completion answers"))
;; A service asks for an identity in a terminal beside the editor; the person chooses in here.
(delete-char -2)
(goto-char (point-min))
(search-forward "  api:\n")
(insert "    identity: shop-dev\n")
(save-buffer)
(eglot--signal-textDocument/didChange)
(eglot--signal-textDocument/didSave)
(call-process "python3" nil nil nil (getenv "PDEV_TERMINAL") "pdev up")
(soon "who runs without an identity is told" (lambda () (string-match-p "runs without the identity `shop-dev`" (findings))))
(defvar asked nil)
(defun approve (choice)
  (setq asked nil)
  (goto-char (point-min))
  (search-forward "shop-dev")
  (backward-char 2)
  (let ((completing-read-function
         (lambda (prompt &rest _) (push prompt asked) (if (string-match-p "approved:" prompt) "Bring it up again" choice))))
    (let ((action (cl-find-if (lambda (action) (string-match-p "^Approve" (plist-get action :title)))
                              (eglot-code-actions (point) (point) "quickfix"))))
      (check action "there is a fix for it")
      (eglot-execute (eglot-current-server) action)
      (soon "the person is asked" (lambda () asked))
      (check (string-match-p "would act as `shop-dev`" (car (last asked))) "about what it is")
      (when (string-match-p "^Approve" choice)
        (soon "and then whether to bring it up again" (lambda () (cdr asked)))
        (soon "the finding goes" (lambda () (not (string-match-p "runs without" (findings)))))))))
(defun approvals () (shell-command-to-string "pdev identity approvals --json"))
(approve "Not now")
(check (not (string-match-p "shop-dev" (approvals))) "nothing is approved by saying no")
(approve "Approve `shop-dev`")
(check (string-match-p "shop-dev" (approvals)) "the word is kept")
(soon "and the service acts as it"
      (lambda () (string-match-p "\"identity\":\"shop-dev\"" (shell-command-to-string "pdev ls --json"))))
(set-buffer-modified-p nil)
(eglot-shutdown (eglot-current-server))
(message "%d checks passed" checks)
(kill-emacs 0)
