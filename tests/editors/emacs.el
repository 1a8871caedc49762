;;; emacs.el --- edits a manifest with mistakes, as a user would -*- lexical-binding: t -*-
;; Stops at the first failed check. Waits for conditions, never for a fixed time.

(require 'eglot)
(require 'cl-lib)

(defvar checks 0)
(defun check (condition description)
  (unless condition (message "failed: %s" description) (kill-emacs 1))
  (cl-incf checks))
(defun wait-for (description condition)
  (let ((deadline (+ (float-time) 15)))
    (while (and (not (funcall condition)) (< (float-time) deadline))
      ;; Not `sleep-for': the server's messages arrive only while Emacs reads from its processes.
      (accept-process-output nil 0.05))
    (check (funcall condition) description)))

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
;; eglot connects in post-command-hook, which does not run in batch mode.
(unless (eglot-managed-p) (apply #'eglot (eglot--guess-contact)))
(wait-for "eglot is connected" #'eglot-managed-p)
(defun diagnostics () (mapconcat #'flymake-diagnostic-text (flymake-diagnostics) "\n"))
(flymake-start)
(wait-for "the misspelt key is reported" (lambda () (string-match-p "port" (diagnostics))))
(goto-char (point-min))
(search-forward "prot")
(backward-char 2)
(let ((actions (eglot-code-actions (point) (point) "quickfix")))
  (check actions "there is a quick fix")
  (eglot-execute (eglot-current-server)
                 (or (cl-find-if (lambda (action) (eq t (plist-get action :isPreferred))) actions)
                     (check nil "one of the fixes is preferred"))))
(check (string-match-p "^    port: 8080$" (buffer-string)) "the fix is applied")
;; eglot sends changes from an idle timer, and Emacs is never idle in batch mode.
(eglot--signal-textDocument/didChange)
(wait-for "the diagnostic disappears" (lambda () (not (string-match-p "prot" (diagnostics)))))
(goto-char (point-min))
(search-forward "  web")
(backward-char 1)
(cl-letf (((symbol-function 'y-or-n-p) (lambda (&rest _) t)))
  (eglot-rename "shop"))
(check (string-match-p "needs: \\[shop\\]" (buffer-string)) "rename changes every reference")
(goto-char (point-min))
(search-forward "port")
(let ((hover (jsonrpc-request (eglot-current-server) :textDocument/hover (eglot--TextDocumentPositionParams))))
  (check (string-match-p "port" (format "%S" hover)) "hover describes the port"))
(let ((result (progn (goto-char (point-max)) (insert "  ")
                     (jsonrpc-request (eglot-current-server) :textDocument/completion (eglot--CompletionParams)))))
  (check (> (length (if (vectorp result) result (plist-get result :items))) 0) "completion returns items"))
;; A service requests an identity in a terminal outside the editor; the user approves it in the editor.
(delete-char -2)
(goto-char (point-min))
(search-forward "  api:\n")
(insert "    identity: shop-dev\n")
(save-buffer)
(eglot--signal-textDocument/didChange)
(eglot--signal-textDocument/didSave)
(call-process "python3" nil nil nil (getenv "PDEV_TERMINAL") "pdev up")
(wait-for "the service without its identity is reported" (lambda () (string-match-p "runs without the identity `shop-dev`" (diagnostics))))
(defvar prompts nil)
(defun approve (choice)
  (setq prompts nil)
  (goto-char (point-min))
  (search-forward "shop-dev")
  (backward-char 2)
  (let ((completing-read-function
         (lambda (prompt &rest _) (push prompt prompts) (if (string-match-p "approved:" prompt) "Bring it up again" choice))))
    (let ((action (cl-find-if (lambda (action) (string-match-p "^Approve" (plist-get action :title)))
                              (eglot-code-actions (point) (point) "quickfix"))))
      (check action "the fix is offered")
      (eglot-execute (eglot-current-server) action)
      (wait-for "the user is prompted" (lambda () prompts))
      (check (string-match-p "would act as `shop-dev`" (car (last prompts))) "the prompt names the identity")
      (when (string-match-p "^Approve" choice)
        (wait-for "the second prompt offers to run up again" (lambda () (cdr prompts)))
        (wait-for "the diagnostic disappears" (lambda () (not (string-match-p "runs without" (diagnostics)))))))))
(defun approvals () (shell-command-to-string "pdev identity approvals --json"))
(approve "Not now")
(check (not (string-match-p "shop-dev" (approvals))) "a refusal approves nothing")
(approve "Approve `shop-dev`")
(check (string-match-p "shop-dev" (approvals)) "the approval is stored")
(wait-for "the service runs with the identity"
      (lambda () (string-match-p "\"identity\":\"shop-dev\"" (shell-command-to-string "pdev ls --json"))))
(set-buffer-modified-p nil)
(eglot-shutdown (eglot-current-server))
(message "%d checks passed" checks)
(kill-emacs 0)
